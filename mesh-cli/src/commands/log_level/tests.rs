#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::render::Style;

#[test]
fn a_filter_says_until_when() {
    let raw = json!({"filter": "debug", "start": "info,h2=info", "until": "2026-01-01T00:10:00Z"});
    let rows = [Row { row: serde_json::from_value(raw.clone()).unwrap(), raw }];
    let expected = "\
FILTER   UNTIL    AT-START
debug    in 10m   info,h2=info
";
    assert_eq!(table(&rows, "2026-01-01T00:00:00Z".parse().unwrap()).render(Style::default()), expected);
}

#[test]
fn a_filter_without_a_level_silences_the_rest() {
    assert!(has_level("info,mesh_agent=debug") && has_level("h2=off, WARN"));
    assert!(!has_level("mesh_agent=debug"));
}
