#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use mesh_model::MetricsProfile;
use mesh_telemetry::api::Security;
use mesh_telemetry::metrics::{Exposition, Registry};
use serde_json::json;

use super::*;
use crate::metrics::Labels;

/// An agent's life: its metrics, its ledger, and the rows that it knows.
struct Life {
    registry: Registry,
    metrics: Metrics,
    ledger: Ledger,
    rows: HashMap<FlowKey, Seen>,
}

impl Life {
    /// Begins, with what is on the disk.
    fn begin(place: &Place) -> Self {
        Self::with(place, MetricsProfile::Workload)
    }

    fn with(place: &Place, profile: MetricsProfile) -> Self {
        let mut registry = Registry::new();
        let metrics = Metrics::register(&mut registry);
        metrics.set(profile, 20_000);
        let mut ledger = Ledger::default();
        let rows = ledger.begin(Some(place.clone()), &metrics);
        Self { registry, metrics, ledger, rows }
    }

    /// So much more is found in a row that is this pair's.
    fn found(&mut self, row: u64, labels: &Labels, more: FlowCount) {
        let pair = self.metrics.labelled(labels).unwrap();
        self.ledger.give(&pair, &more);
        let seen = self.rows.entry(key(row)).or_default();
        seen.now(sum(&seen.count, &more), vec![pair]);
    }

    fn keep(&mut self) {
        self.ledger.keep(&self.rows, true);
    }

    /// What Prometheus gets of pairs.
    fn shown(&self) -> Vec<String> {
        let text = self.registry.render(Exposition::OpenMetrics).unwrap();
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.contains("direction=")).map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn place(directory: &Path) -> Place {
    Place { directory: directory.into(), boot: "boot".into(), map: 7 }
}

fn key(number: u64) -> FlowKey {
    FlowKey { netns_cookie: number, kind: FlowKey::DIRECT, ..FlowKey::default() }
}

fn labels(direction: &str, source: &str, destination: Option<&str>) -> Labels {
    serde_json::from_value(json!({
        "direction": direction, "security": "kernel", "profile": "workload",
        "ends": {
            "source": {"namespace": "shop", "workload": source, "identity": null},
            "destination": {"namespace": destination.map(|_| "shop"), "workload": destination, "identity": null},
            "service": null,
        },
    }))
    .unwrap()
}

fn count(opened: u64, closed: u64) -> FlowCount {
    let mut connects = Durations::NONE;
    (connects.sum, connects.counts[2]) = (200 * opened, opened);
    let round_trips = connects;
    FlowCount { opened, closed, failed: 1, sent: 40, received: 70, retransmits: 2, connects, round_trips }
}

/// Talk of two pairs, one of which has a connection open.
fn lively(place: &Place) -> Life {
    let mut life = Life::begin(place);
    assert!(life.rows.is_empty());
    life.found(1, &labels("outbound", "till", Some("web")), count(9, 8));
    life.found(2, &labels("inbound", "till", Some("web")), count(3, 3));
    life.found(3, &labels("outbound", "till", None), count(5, 5));
    life
}

#[test]
fn the_next_agent_shows_the_same_and_counts_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut first = lively(&place);
    let rest = first.metrics.rest(Direction::Outbound, Security::Plaintext).labels().clone();
    first.found(4, &rest, count(2, 2));
    first.keep();
    let mut second = Life::begin(&place);
    assert_eq!(second.shown(), first.shown());
    assert_eq!(second.rows.len(), 4);
    for (key, seen) in &first.rows {
        assert_eq!(second.rows[key].count, seen.count);
    }
    // What was open ends under whom it began.
    let open = second.rows.get_mut(&key(1)).unwrap();
    let under: Vec<Arc<Pair>> = open.under().collect();
    assert_eq!(under.len(), 1);
    let mut ended = open.count;
    ended.closed += 1;
    open.now(ended, under);
    let shown = second.shown();
    let is_open = |line: &&String| line.starts_with("weft_open_connections") && !line.ends_with(" 0");
    assert_eq!(shown.iter().filter(is_open).count(), 0, "{shown:#?}");
}

#[test]
fn pairs_whose_rows_are_forgotten_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut first = lively(&place);
    first.keep();
    // A pod is gone: its row is, and what it amounted to is not.
    first.rows.remove(&key(3));
    first.found(2, &labels("inbound", "till", Some("web")), count(1, 1));
    first.keep();
    let second = Life::begin(&place);
    assert_eq!(second.shown(), first.shown());
    assert_eq!(second.rows.len(), 2);
}

#[test]
fn what_is_of_other_maps_or_another_profile_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    lively(&place).keep();
    for other in [Place { boot: "another".into(), ..place.clone() }, Place { map: 8, ..place.clone() }] {
        let life = Life::begin(&other);
        assert!(life.rows.is_empty() && life.shown().is_empty());
    }
    let life = Life::with(&place, MetricsProfile::Full);
    assert!(life.rows.is_empty() && life.shown().is_empty());
    assert_eq!(Life::begin(&place).rows.len(), 3, "and it is there still");
}

#[test]
fn a_damaged_file_is_not_believed_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    lively(&place).keep();
    let file = directory.path().join(FILE);
    let whole = fs::read_to_string(&file).unwrap();
    let version = whole.replace("\"version\":1", "\"version\":2");
    let numbers = whole.replacen("\"count\":[", "\"count\":[1,", 1);
    for damaged in [&whole[..whole.len() / 2], "", "[]", &version, &numbers] {
        fs::write(&file, damaged).unwrap();
        let life = Life::begin(&place);
        assert!(life.rows.is_empty() && life.shown().is_empty(), "{damaged:.40}");
    }
    let mut anew = lively(&place);
    anew.keep();
    assert_eq!(Life::begin(&place).shown(), anew.shown());
}

#[test]
fn it_is_written_when_it_is_time_and_before_rows_go() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut life = lively(&place);
    life.ledger.keep(&life.rows, false);
    let file = directory.path().join(FILE);
    let first = fs::read_to_string(&file).unwrap();
    life.found(1, &labels("outbound", "till", Some("web")), count(1, 1));
    life.ledger.keep(&life.rows, false);
    assert_eq!(fs::read_to_string(&file).unwrap(), first, "not yet");
    life.ledger.keep(&life.rows, true);
    assert_ne!(fs::read_to_string(&file).unwrap(), first);
    // Nobody can write there, and nothing is lost by it.
    let nowhere = Place { directory: directory.path().join("nowhere"), ..place };
    let mut life = lively(&nowhere);
    life.keep();
    assert!(life.ledger.unwritten && life.ledger.complaint.contains("nowhere"), "{}", life.ledger.complaint);
}

#[test]
fn pairs_that_are_not_shown_any_more_are_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut life = lively(&place);
    life.rows.clear();
    life.registry = Registry::new();
    life.metrics = Metrics::register(&mut life.registry);
    life.found(9, &labels("outbound", "till", Some("new")), count(1, 1));
    life.keep();
    assert_eq!(life.ledger.given.len(), 1);
    assert_eq!(Life::begin(&place).rows.len(), 1);
}
