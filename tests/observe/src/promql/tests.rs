use super::*;

fn metrics(expression: &str) -> Vec<String> {
    mentions(expression).selectors.into_iter().map(|selector| selector.metric).collect()
}

#[test]
fn functions_keywords_durations_and_strings_are_no_metrics() {
    let expression = "sum by (le, reason) (rate(weft_a_total{x=~\"up|down\"}[5m] offset 1h)) / on (instance) group_left () \
                      histogram_quantile(0.99, weft:b:p99_5m) > bool 1e3 or vector(0)";
    assert_eq!(metrics(expression), ["weft_a_total", "weft:b:p99_5m"]);
    let found = mentions(expression);
    assert_eq!(found.selectors[0].labels, ["x"]);
    assert_eq!(found.grouping.into_iter().collect::<Vec<_>>(), ["instance", "le", "reason"]);
}

#[test]
fn braces_alone_are_a_selector_without_a_name() {
    let found = mentions("count({job=\"x\", __name__=~\"weft_.*\"})");
    assert_eq!(
        found.selectors,
        [Selector { metric: String::new(), labels: vec!["job".into(), "__name__".into()] }]
    );
}

#[test]
fn a_brace_in_a_string_ends_nothing() {
    let found = mentions("a{x=\"}\", y='{'} + b");
    assert_eq!(found.selectors[0].labels, ["x", "y"]);
    assert_eq!(found.selectors[1].metric, "b");
}

#[test]
fn an_aggregation_may_have_its_labels_behind_it() {
    assert_eq!(metrics("topk(3, sum(a) by (x))"), ["a"]);
}

#[test]
fn labels_that_are_made_are_known() {
    let made = made_labels("label_replace(a{b=\"c\"}, \"new\", \"$1\", \"old\", \"(.+)\")");
    assert!(made.contains("new"), "{made:?}");
}
