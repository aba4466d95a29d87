use super::*;
use serde_json::json;

#[test]
fn tests_of_alerts_are_told_apart_by_whether_they_expect_any() {
    let mut tested = Tested::default();
    note(&mut tested, "ALERTS{alertname=\"A\"}", &[json!({"labels": "ALERTS{alertname=\"A\", node=\"x\"}"})]);
    note(&mut tested, "ALERTS{alertname=\"B\"}", &[]);
    note(&mut tested, "sum(weft:c:rate5m)", &[json!({"labels": "{}"})]);
    note(&mut tested, "weft:d:rate5m", &[]);
    assert!(tested.fires["A"].contains("node"));
    assert_eq!(tested.quiet.into_iter().collect::<Vec<_>>(), ["B"]);
    assert_eq!(tested.records.into_iter().collect::<Vec<_>>(), ["weft:c:rate5m"]);
}

#[test]
fn templates_say_which_labels_they_print() {
    assert_eq!(labels_in_template("{{ $labels.map }} on {{ $labels.instance }}"), ["map", "instance"]);
}
