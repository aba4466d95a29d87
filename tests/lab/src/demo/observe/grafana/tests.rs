#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::demo::observe::scraper::RULES;

/// What is directly in a directory of `deploy`.
fn deployed(kind: &str) -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(kind);
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn no_dashboard_and_no_file_of_rules_is_left_out() {
    let names = |files: &[(&str, &str)]| -> BTreeSet<String> {
        files.iter().map(|(name, _)| (*name).to_owned()).collect()
    };
    assert_eq!(names(&DASHBOARDS), deployed("dashboards"));
    assert_eq!(names(&RULES), deployed("rules"));
}

#[test]
fn grafana_finds_the_source_and_the_dashboards_where_they_are_written() {
    let lab = std::env::temp_dir().join(format!("weft-grafana-{}", std::process::id()));
    let directory = write(&lab, "http://127.0.0.1:9090").unwrap();
    let read = |name: &str| -> Value {
        let text = std::fs::read_to_string(directory.join("provisioning").join(name)).unwrap();
        serde_saphyr::from_str(&text).unwrap()
    };
    let (source, provider) = (read("datasources/weft.yaml"), read("dashboards/weft.yaml"));
    let dashboards: Vec<_> = provider["providers"][0]["options"]["path"]
        .as_str()
        .map(|path| std::fs::read_dir(path).unwrap().count())
        .into_iter()
        .collect();
    std::fs::remove_dir_all(&lab).unwrap();
    assert_eq!(source["datasources"][0]["url"], "http://127.0.0.1:9090");
    assert_eq!(source["datasources"][0]["jsonData"]["timeInterval"], "2s");
    assert_eq!(dashboards, [DASHBOARDS.len()]);
}
