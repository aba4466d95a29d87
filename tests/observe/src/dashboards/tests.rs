use super::*;

#[test]
fn variables_are_put_in_and_groups_of_expressions_are_left() {
    let variables = Variables::default().with("namespace", "shop");
    let put = |text| variables.put_into(text).unwrap();
    assert_eq!(put("rate(a{n=\"$namespace\"}[$__rate_interval])"), "rate(a{n=\"shop\"}[10s])");
    assert_eq!(put("a{n=~\"${namespace:regex}\"}[${__range}]"), "a{n=~\"shop\"}[30s]");
    assert_eq!(
        put("label_replace(a, \"b\", \"$1\", \"c\", \"(.+)\")"),
        "label_replace(a, \"b\", \"$1\", \"c\", \"(.+)\")"
    );
    assert!(variables.put_into("a{n=\"$nobody\"}").is_err());
}

#[test]
fn questions_of_variables_become_expressions() {
    assert_eq!(
        expression_of("label_values(weft_pods{a=\"b,c\"}, instance)"),
        "count by (instance) (weft_pods{a=\"b,c\"})"
    );
    assert_eq!(expression_of("query_result(count(a) by (b))"), "count(a) by (b)");
}

#[test]
fn every_variable_of_a_text_is_found() {
    assert_eq!(variables_in("$a ${b:regex} ${__data.fields[\"x\"]} $1"), ["a", "b", "__data"]);
}
