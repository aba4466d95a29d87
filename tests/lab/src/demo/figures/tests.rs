#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn a_sample_is_taken_apart_and_shortened() {
    let line = "weft_bytes_total{flow=\"sent\",direction=\"outbound\",security=\"mtls\",source_namespace=\"shop\",\
                source_workload=\"frontend\",destination_namespace=\"shop\",destination_workload=\"web\"} 4711";
    let sample = parse(line).unwrap();
    assert_eq!((sample.name, sample.number()), ("weft_bytes_total", 4711.0));
    assert_eq!(sample.label("direction"), "outbound");
    assert_eq!(
        sample.shortened(),
        "weft_bytes_total{source=shop/frontend destination=shop/web flow=sent security=mtls}"
    );
}

#[test]
fn lines_that_are_no_samples_are_left_out() {
    assert_eq!(parse("# HELP weft_pods Pods"), None);
    assert_eq!(parse("process_cpu_seconds_total 1"), None);
    assert_eq!(parse("weft_world_complete 1").unwrap().value, "1");
}
