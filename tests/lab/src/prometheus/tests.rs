#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::Ipv4Addr;

use super::*;

#[test]
fn a_job_has_all_of_its_targets_and_each_its_name() {
    let target = |job: &str, instance: &str, port| Target {
        job: job.into(),
        instance: instance.into(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let config = Config {
        targets: vec![
            target("weft-agent", "a", 1),
            target("weft-controller", "c", 2),
            target("weft-agent", "b", 3),
        ],
        rules: vec!["/tmp/a rule.yaml".into()],
        ..Config::default()
    };
    let read: Value = serde_saphyr::from_str(&config.yaml().unwrap()).unwrap();
    assert_eq!(read["global"]["scrape_interval"], "1000ms");
    assert_eq!(read["rule_files"][0], "/tmp/a rule.yaml");
    assert_eq!(read["scrape_configs"][0]["job_name"], "weft-agent");
    assert_eq!(read["scrape_configs"][0]["static_configs"][1]["targets"][0], "127.0.0.1:3");
    assert_eq!(read["scrape_configs"][0]["static_configs"][1]["labels"]["instance"], "b");
    assert_eq!(read["scrape_configs"][1]["job_name"], "weft-controller");
}

#[test]
fn expressions_survive_a_query_string() {
    assert_eq!(encoded("up{job=~\".*\"} + 1"), "up%7Bjob%3D~%22.%2A%22%7D%20%2B%201");
}

#[test]
fn infinities_and_no_numbers_are_values() {
    assert!(number(&"+Inf".into()).unwrap().is_infinite());
    assert!(number(&"NaN".into()).unwrap().is_nan());
    assert!(number(&"word".into()).is_err());
}
