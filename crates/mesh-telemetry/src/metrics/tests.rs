#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;

use super::process::{Stat, fd_limit};
use super::*;

fn mesh_part(text: &str) -> String {
    text.lines().filter(|line| !line.contains("process_")).map(|line| format!("{line}\n")).collect()
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    let opened = Family::<Vec<(String, String)>, Counter>::default();
    opened.get_or_create(&vec![("reason".into(), "a \"b} # {c".into())]).inc_by(3);
    registry.register("connections_opened", "Connections opened", opened);
    let open = Gauge::<i64>::default();
    open.set(7);
    registry.register("connections_open", "Connections open now", open);
    registry.register("build", "What runs", Info::new(vec![("version", "0.1.0")]));
    let handshake = Histogram::new([0.5]);
    handshake.observe(0.25);
    registry.register("handshake_seconds", "Time of a handshake, in seconds", handshake);
    registry
}

#[test]
fn openmetrics_text_is_what_the_specification_says() {
    let text = mesh_part(&registry().render(Exposition::OpenMetrics).unwrap());
    let expected = r##"# HELP weft_connections_opened Connections opened.
# TYPE weft_connections_opened counter
weft_connections_opened_total{reason="a \"b} # {c"} 3
# HELP weft_connections_open Connections open now.
# TYPE weft_connections_open gauge
weft_connections_open 7
# HELP weft_build What runs.
# TYPE weft_build info
weft_build_info{version="0.1.0"} 1
# HELP weft_handshake_seconds Time of a handshake, in seconds.
# TYPE weft_handshake_seconds histogram
weft_handshake_seconds_sum 0.25
weft_handshake_seconds_count 1
weft_handshake_seconds_bucket{le="0.5"} 1
weft_handshake_seconds_bucket{le="+Inf"} 1
# EOF
"##;
    assert_eq!(text, expected);
}

#[test]
fn classic_text_names_a_counter_with_its_total_and_knows_no_info() {
    let text = mesh_part(&registry().render(Exposition::Classic).unwrap());
    let expected = r##"# HELP weft_connections_opened_total Connections opened.
# TYPE weft_connections_opened_total counter
weft_connections_opened_total{reason="a \"b} # {c"} 3
# HELP weft_connections_open Connections open now.
# TYPE weft_connections_open gauge
weft_connections_open 7
# HELP weft_build_info What runs.
# TYPE weft_build_info gauge
weft_build_info{version="0.1.0"} 1
# HELP weft_handshake_seconds Time of a handshake, in seconds.
# TYPE weft_handshake_seconds histogram
weft_handshake_seconds_sum 0.25
weft_handshake_seconds_count 1
weft_handshake_seconds_bucket{le="0.5"} 1
weft_handshake_seconds_bucket{le="+Inf"} 1
"##;
    assert_eq!(text, expected);
}

#[test]
fn classic_text_carries_no_exemplar() {
    let mut registry = Registry::new();
    let bytes: CounterWithExemplar<Vec<(String, String)>> = CounterWithExemplar::default();
    bytes.inc_by(1, Some(vec![("trace".to_string(), "1".to_string())]), None);
    registry.register("bytes", "Bytes", bytes);
    assert!(registry.render(Exposition::OpenMetrics).unwrap().contains("weft_bytes_total 1 # {trace"));
    assert!(registry.render(Exposition::Classic).unwrap().contains("\nweft_bytes_total 1\n"));
}

#[test]
fn the_process_is_described_without_the_prefix() {
    let registry = Registry::new();
    let text = registry.render(Exposition::Classic).unwrap();
    for described in registry.described() {
        assert!(
            text.contains(&format!(
                "# HELP {} {}\n# TYPE {} {}\n",
                described.name, described.help, described.name, described.kind
            )),
            "{described:?} in {text}"
        );
    }
    assert!(text.contains("\nprocess_cpu_seconds_total "));
    let start: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("process_start_time_seconds "))
        .and_then(|value| value.parse().ok())
        .unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - start).abs() < 3600.0, "started {start}, now {now}");
}

use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn what_is_registered_can_be_listed_under_the_names_of_queries() {
    let registry = registry();
    let mesh: Vec<_> = registry
        .described()
        .iter()
        .filter(|described| described.name.starts_with("weft_"))
        .map(|described| (described.name.as_str(), described.kind))
        .collect();
    assert_eq!(
        mesh,
        [
            ("weft_connections_opened_total", "counter"),
            ("weft_connections_open", "gauge"),
            ("weft_build_info", "info"),
            ("weft_handshake_seconds", "histogram"),
        ]
    );
}

#[test]
fn the_form_is_the_one_that_the_scraper_asks_for() {
    use Exposition::{Classic, OpenMetrics};
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,*/*;q=0.1";
    assert_eq!(Exposition::accepted(Some(prometheus)), OpenMetrics);
    assert_eq!(Exposition::accepted(Some("application/openmetrics-text")), OpenMetrics);
    assert_eq!(Exposition::accepted(Some("text/plain, application/openmetrics-text;q=0.5")), Classic);
    assert_eq!(Exposition::accepted(Some("application/openmetrics-text;q=0")), Classic);
    assert_eq!(Exposition::accepted(Some("*/*")), Classic);
    assert_eq!(Exposition::accepted(None), Classic);
}

#[test]
fn a_command_name_with_parentheses_does_not_shift_the_fields_of_stat() {
    let fields: Vec<_> = (4..=30).map(|field| field.to_string()).collect();
    let stat = format!("1 (a ) b (c) S {}", fields.join(" "));
    assert_eq!(
        Stat::parse(&stat),
        Some(Stat { cpu_ticks: 29, threads: 20, start_ticks: 22, virtual_size: 23, resident_pages: 24 })
    );
    assert_eq!(Stat::parse("1 (a) S 4"), None);
}

#[test]
fn an_unlimited_number_of_descriptors_is_no_number() {
    assert_eq!(fd_limit("Max open files            1024      4096      files\n"), Some(1024));
    assert_eq!(fd_limit("Max open files            unlimited unlimited files\n"), None);
}
