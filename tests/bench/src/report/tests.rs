#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::summary::{Sides, Spread, Yardstick};
use crate::works::Kind;

fn figures(others_share: f64) -> Figures {
    let spread = |median: f64| Spread { min: median / 2.0, median, max: median * 2.0 };
    let sides = Sides { direct: Some(20.0), weft: Some(30.0) };
    Figures {
        direct: spread(1000.0),
        weft: spread(500.0),
        ratio: spread(0.5),
        cpu_per_unit: spread(12.0),
        yardstick: None,
        p50_us: sides,
        p99_us: sides,
        machine_per_unit: sides,
        others_share,
        steal_share: 0.0,
    }
}

fn report(figures: Result<Figures, String>) -> Report {
    report_of(Path::CrossNode, figures)
}

fn report_of(path: Path, figures: Result<Figures, String>) -> Report {
    let conditions = Conditions {
        cpus: 2,
        kernel: "6.1".into(),
        pinned: true,
        rounds: 5,
        window_seconds: 1,
        calibration: false,
        yardstick: None,
        idle_share: 0.01,
    };
    let work = Work { kind: Kind::Http, width: 32 };
    let memory = Memory {
        idle_rss_bytes: 16 << 20,
        per_idle_connection_bytes: 6144.0,
        peak_rss_bytes: 1,
        map_bytes: 2,
    };
    Report::new(conditions, vec![Row { path, work, figures }], Some(MemoryRow(Ok(memory))))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn rows_have_exactly_the_keys_that_are_promised() {
    let report = report(Ok(figures(0.0))).json();
    let row = &report["rows"][0];
    let promised = ["cpu_per_unit", "direct", "p50_us", "p99_us", "path", "ratio", "unit", "weft", "work"];
    assert_eq!(keys(row), promised);
    for key in ["direct", "weft", "ratio", "cpu_per_unit"] {
        assert_eq!(keys(&row[key]), ["max", "median", "min"], "{key}");
    }
    assert_eq!(keys(&row["p50_us"]), ["direct", "weft"]);
    assert_eq!(
        (&row["path"], &row["work"], &row["unit"]),
        (&json!("cross-node"), &json!("http-32"), &json!("us/request"))
    );
    let promised = ["idle_rss_bytes", "map_bytes", "path", "peak_rss_bytes", "per_idle_connection_bytes"];
    assert_eq!(keys(&report["rows"][1]), promised);
    assert_eq!(report["machine"], json!({ "cpus": 2, "kernel": "6.1" }));
}

#[test]
fn a_row_that_failed_has_no_number() {
    let report = report(Err("it did not go through the mesh".into()));
    assert_eq!(report.outcome(), Outcome::Incomplete);
    assert_eq!(keys(&report.json()["rows"][0]), ["error", "path", "work"]);
    assert!(report.table(false).contains("no figures: it did not go through the mesh"));
}

#[test]
fn a_busy_machine_is_warned_of() {
    let quiet = report(Ok(figures(0.01)));
    assert!(!quiet.table(false).contains("warning"), "{}", quiet.table(false));
    assert_eq!(quiet.json()["noise"]["quiet"], true);
    let loud = report(Ok(figures(0.2)));
    let table = loud.table(false);
    assert!(
        table.contains("warning: others used more than 5 % of the machine: cross-node http-32"),
        "{table}"
    );
    assert_eq!(loud.json()["noise"]["quiet"], false);
}

#[test]
fn only_a_terminal_gets_colours() {
    let report = report(Ok(figures(0.2)));
    assert!(!report.table(false).contains('\x1b'));
    assert!(report.table(true).contains('\x1b'));
}

#[test]
fn the_yardstick_stands_in_the_row_that_it_was_measured_in() {
    let spread = |median: f64| Spread { min: median / 2.0, median, max: median * 2.0 };
    let yardstick = Yardstick { figure: spread(876.0), ratio: spread(0.4321), cpu_per_unit: spread(23.4) };
    let mut report = report(Ok(Figures { yardstick: Some(yardstick), ..figures(0.0) }));
    report.conditions.yardstick = Some("haproxy 2.6".into());
    let work = Work { kind: Kind::Request, width: 1 };
    report.rows.push(Row { path: Path::CrossNode, work, figures: Ok(figures(0.0)) });
    let json = report.json();
    assert_eq!(
        json["rows"][0]["yardstick"],
        json!({
            "ratio": { "min": 0.21605, "median": 0.4321, "max": 0.8642 },
            "cpu_per_unit": { "min": 11.7, "median": 23.4, "max": 46.8 },
        })
    );
    assert!(json["rows"][1].get("yardstick").is_none(), "{json}");
    assert_eq!(json["run"]["yardstick"], "haproxy 2.6");
    let table = report.table(false);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[1].contains("agents' CPU  haproxy  its ratio  its CPU  machine's CPU"), "{table}");
    assert!(lines[2].contains("12.0 us/request      876       0.43     23.4"), "{table}");
    let progress = report.rows[0].progress();
    assert_eq!(progress, "cross-node http-32       ratio 0.50 (0.25 to 1.00); haproxy 0.43 (0.22 to 0.86)");
}

#[test]
fn without_the_yardstick_there_is_no_word_of_it() {
    let report = report(Ok(figures(0.0)));
    assert!(!report.table(false).contains("haproxy"), "{}", report.table(false));
    assert!(report.json()["rows"][0].get("yardstick").is_none());
    assert!(!report.rows[0].progress().contains("haproxy"));
}

#[test]
fn a_row_past_the_agents_is_held_to_its_bar() {
    let mut report = report_of(Path::SameNode, Ok(figures(0.0)));
    assert_eq!(report.outcome(), Outcome::BarMissed);
    assert_eq!(report.json()["rows"][0]["bar"], json!({ "ratio": { "at_least": 0.95 }, "held": false }));
    let table = report.table(false);
    assert!(table.contains("1.00  >= 0.95  12.0 us/request"), "{table}");
    assert!(table.contains("same-node http-32: bar missed: ratio 0.500, not >= 0.95"), "{table}");
    report.rows[0].figures.as_mut().unwrap().ratio.median = 0.97;
    assert_eq!(report.outcome(), Outcome::Good);
    assert_eq!(report.json()["rows"][0]["bar"]["held"], true);
    assert!(!report.table(false).contains("missed"));
}

#[test]
fn without_a_bar_there_is_no_word_of_it() {
    let report = report(Ok(figures(0.0)));
    assert_eq!(report.outcome(), Outcome::Good);
    assert!(!report.table(false).contains("bar"), "{}", report.table(false));
    let mut calibration = report_of(Path::SameNode, Ok(figures(0.0)));
    calibration.conditions.calibration = true;
    assert_eq!(calibration.outcome(), Outcome::Good, "two sides outside the mesh promise nothing");
    assert!(calibration.json()["rows"][0].get("bar").is_none());
}
