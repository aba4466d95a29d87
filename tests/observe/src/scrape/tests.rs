#![allow(clippy::unwrap_used, reason = "tests")]

use super::Scrape;

const TEXT: &str = "# HELP weft_pods Pods.\n# TYPE weft_pods gauge\nweft_pods{state=\"captured\"} 3\nweft_pods{state=\"pending\"} 0\n\
    weft_world_complete 1\nweft_took_seconds_bucket{role=\"client\",le=\"+Inf\"} 7\nweft_took_seconds_count{role=\"client\"} 7\n\
    weft_lines{reason=\"a\",verdict=\"b\"} 2\nweft_lines{reason=\"c\",verdict=\"b\"} 5\nnothing\n";

#[test]
fn what_is_there_is_summed_up_and_what_is_not_is_none() {
    let scrape = Scrape::parse(TEXT);
    assert_eq!(scrape.sum("weft_pods", &[]), Some(3.0));
    assert_eq!(scrape.sum("weft_pods", &["state=\"pending\""]), Some(0.0));
    assert_eq!(scrape.sum("weft_pods", &["state=\"excluded\""]), None);
    assert_eq!(scrape.sum("weft_world_complete", &[]), Some(1.0));
    assert_eq!(scrape.sum("weft_took_seconds", &[]), Some(7.0));
    assert_eq!(scrape.sum("weft_lines", &["verdict=\"b\"", "reason=\"c\""]), Some(5.0));
    assert_eq!(scrape.sum("weft_lines", &["verdict=\"b\""]), Some(7.0));
    assert_eq!(scrape.sum("weft_line", &[]), None);
}

#[test]
fn values_by_a_label() {
    let scrape = Scrape::parse(TEXT);
    let by: Vec<_> = scrape.by("weft_pods", "state").into_iter().collect();
    assert_eq!(by, [("captured".to_owned(), 3.0), ("pending".to_owned(), 0.0)]);
    assert!(scrape.by("weft_pods", "reason").is_empty());
}
