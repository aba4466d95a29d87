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
    disk: Disk,
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
        let (mut ledger, disk) = (Ledger::default(), Disk::at(place.clone()));
        let rows = ledger.begin(&disk, &metrics);
        Self { registry, metrics, ledger, disk, rows }
    }

    /// So much more is found in a row that is this pair's.
    fn found(&mut self, row: u64, labels: &Labels, more: FlowCount) {
        let pair = self.metrics.labelled(labels).unwrap();
        self.ledger.give(&pair, &more);
        let seen = self.rows.entry(key(row)).or_default();
        seen.now(sum(&seen.count, &more), vec![pair]);
    }

    /// Writes what is new; whether there was something, and it is there.
    fn keep(&mut self) -> bool {
        let page = self.ledger.page(self.disk.place(), &self.rows);
        page.is_some_and(|page| self.disk.write(&page))
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
    assert!(first.keep());
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
    assert!(first.keep());
    // A pod is gone: its row is, and what it amounted to is not.
    first.rows.remove(&key(3));
    first.found(2, &labels("inbound", "till", Some("web")), count(1, 1));
    assert!(first.keep());
    let second = Life::begin(&place);
    assert_eq!(second.shown(), first.shown());
    assert_eq!(second.rows.len(), 2);
}

#[test]
fn what_is_of_other_maps_or_another_profile_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    assert!(lively(&place).keep());
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
    assert!(lively(&place).keep());
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
    assert!(anew.keep());
    assert_eq!(Life::begin(&place).shown(), anew.shown());
}

#[test]
fn it_is_written_when_there_is_something_new_and_it_is_time() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut life = lively(&place);
    assert!(life.disk.is_due());
    assert!(life.keep());
    assert!(!life.disk.is_due(), "not yet again");
    assert!(!life.keep(), "there is nothing new");
    life.found(1, &labels("outbound", "till", Some("web")), count(1, 1));
    assert!(life.keep());
    // Nobody can write there, and nothing is lost by it.
    let mut life = lively(&Place { directory: directory.path().join("nowhere"), ..place });
    assert!(!life.keep());
    assert!(life.disk.complaint.contains("nowhere"), "{}", life.disk.complaint);
}

#[test]
fn what_is_left_of_another_profile_is_left_out_and_takes_nothing_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let mut first = lively(&place);
    first.metrics.set(MetricsProfile::Full, 20_000);
    let mut full = serde_json::to_value(labels("outbound", "till", Some("web"))).unwrap();
    full["profile"] = json!("full");
    let full: Labels = serde_json::from_value(full).unwrap();
    first.found(8, &full, count(4, 4));
    assert!(first.keep());
    let second = Life::with(&place, MetricsProfile::Full);
    assert_eq!(second.rows.len(), 4, "what rows amounted to is known, and not counted again");
    let opened = |line: &&String| line.starts_with("weft_connections_opened_total");
    let shown = second.shown();
    let shown: Vec<&String> = shown.iter().filter(opened).collect();
    assert!(shown.len() == 1 && shown[0].ends_with(" 4"), "{shown:?}");
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
    assert!(life.keep());
    assert_eq!(life.ledger.given.len(), 1);
    assert_eq!(Life::begin(&place).rows.len(), 1);
}
