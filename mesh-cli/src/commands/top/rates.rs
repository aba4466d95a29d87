//! Rates out of totals: what a pair's counters grew by since the last sample, by the second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use mesh_telemetry::api::{Direction, Talker, TalkerPair, TalkerRow};
use serde::Serialize;

/// For so many samples a pair that has nothing open and says nothing stays on the list.
const LINGERS: u32 = 10;

/// How fast a pair talks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct TalkerRate {
    /// Who, whom, and how.
    #[serde(flatten)]
    pub(super) pair: TalkerPair,
    pub(super) open: u64,
    pub(super) opened_per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) bytes_sent_per_second: f64,
    pub(super) bytes_received_per_second: f64,
    /// The mean of the connects since the last sample, in milliseconds; null where none was measured.
    pub(super) connect_ms: Option<f64>,
}

/// Totals of a node's pairs.
pub(super) type OfNode = (String, Vec<TalkerRow>);

/// What each node said last.
#[derive(Debug, Default)]
pub(super) struct Rates {
    at: Option<Instant>,
    /// A node that does not answer for a while keeps its place: what it counted meanwhile is measured once it answers.
    nodes: HashMap<String, Last>,
    /// For how many samples each pair has been quiet.
    quiet: HashMap<TalkerPair, u32>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    rows: HashMap<TalkerPair, TalkerRow>,
}

/// What the nodes' counters of one pair grew by.
#[derive(Debug, Default)]
struct Sum {
    open: u64,
    opened: f64,
    failed: f64,
    bytes_sent: f64,
    bytes_received: f64,
    connects: u64,
    connect_us: Option<u64>,
    /// Some node was asked before, too.
    is_measured: bool,
}

impl TalkerRate {
    /// Both directions together.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes_sent_per_second + self.bytes_received_per_second
    }
}

impl Rates {
    /// Seconds since the last sample; `None` at the first.
    pub(super) fn since(&self, at: Instant) -> Option<f64> {
        self.at.map(|last| at.duration_since(last).as_secs_f64()).filter(|seconds| *seconds > 0.0)
    }

    /// The rates of a new sample. Each node is measured from what it said itself, and the sum of the nodes' rates counts: a sum of
    /// totals would jump by all that a node has ever counted whenever that node does not answer.
    pub(super) fn of(&mut self, at: Instant, nodes: Vec<OfNode>) -> Vec<TalkerRate> {
        let mut sums: BTreeMap<TalkerPair, Sum> = BTreeMap::new();
        for (node, rows) in nodes {
            let now = by_pair(rows);
            let last = self.nodes.get(&node);
            let seconds = last.map(|last| at.duration_since(last.at).as_secs_f64());
            for (pair, row) in &now {
                let sum = sums.entry(pair.clone()).or_default();
                match (last, seconds.filter(|seconds| *seconds > 0.0)) {
                    (Some(last), Some(seconds)) => sum.add(last.rows.get(pair), row, seconds),
                    // Where a node is heard for the first time everything is old.
                    _ => sum.open += row.open,
                }
            }
            self.nodes.insert(node, Last { at, rows: now });
        }
        let is_whole = self.nodes.values().all(|last| last.at == at);
        self.at = Some(at);
        let mut quiet = HashMap::new();
        let mut rates = Vec::new();
        for (pair, sum) in sums {
            let is_measured = sum.is_measured;
            let rate = sum.rate(pair.clone());
            let is_quiet = rate.open == 0 && rate.bytes_per_second() == 0.0 && rate.opened_per_second == 0.0;
            let been = match (is_quiet, self.quiet.get(&pair)) {
                (false, _) => 0,
                (true, Some(been)) => been.saturating_add(1),
                (true, None) if is_measured => 1,
                // What was quiet all the time before anybody looked is no news.
                (true, None) => LINGERS,
            };
            if been < LINGERS {
                rates.push(rate);
            }
            quiet.insert(pair, been);
        }
        // What is known of the pairs of a node that does not answer is not forgotten.
        if is_whole {
            self.quiet.clear();
        }
        self.quiet.extend(quiet);
        rates
    }
}

impl Sum {
    fn add(&mut self, before: Option<&TalkerRow>, now: &TalkerRow, seconds: f64) {
        // A pair that was not there before is new. Counters of an agent that was started anew begin at nothing.
        let grown = |field: fn(&TalkerRow) -> u64| {
            let before = before.map_or(0, field);
            field(now).checked_sub(before).unwrap_or(field(now))
        };
        self.is_measured = true;
        self.open += now.open;
        self.opened += grown(|row| row.opened) as f64 / seconds;
        self.failed += grown(|row| row.failed) as f64 / seconds;
        self.bytes_sent += grown(|row| row.bytes_sent) as f64 / seconds;
        self.bytes_received += grown(|row| row.bytes_received) as f64 / seconds;
        // Of a node that does not measure it neither counts.
        if now.connect_us.is_some() {
            self.connects += grown(|row| row.connects);
            let took = grown(|row| row.connect_us.unwrap_or(0));
            self.connect_us = Some(self.connect_us.unwrap_or(0) + took);
        }
    }

    fn rate(self, pair: TalkerPair) -> TalkerRate {
        let took = self.connect_us.filter(|_| self.connects > 0);
        TalkerRate {
            pair,
            open: self.open,
            opened_per_second: self.opened,
            failed_per_second: self.failed,
            bytes_sent_per_second: self.bytes_sent,
            bytes_received_per_second: self.bytes_received,
            connect_ms: took.map(|us| us as f64 / self.connects as f64 / 1000.0),
        }
    }
}

/// A node's rows; of several of one pair the sum counts.
fn by_pair(rows: Vec<TalkerRow>) -> HashMap<TalkerPair, TalkerRow> {
    let mut all: HashMap<TalkerPair, TalkerRow> = HashMap::new();
    for row in rows {
        let sum = all.entry(row.pair.clone()).or_insert_with(|| TalkerRow::new(row.pair.clone()));
        sum.open += row.open;
        sum.opened += row.opened;
        sum.failed += row.failed;
        sum.bytes_sent += row.bytes_sent;
        sum.bytes_received += row.bytes_received;
        sum.connects += row.connects;
        sum.connect_us = match (sum.connect_us, row.connect_us) {
            (None, None) => None,
            (sum, more) => Some(sum.unwrap_or(0) + more.unwrap_or(0)),
        };
    }
    all
}

/// What a line of sums counts: each connection once. One within a node, or between two nodes that are both asked, has a row at
/// either end, and the one of the end that is dialled is left out.
pub(super) fn counted_once(all: &[TalkerRate]) -> impl Iterator<Item = &TalkerRate> {
    let key = |rate: &'_ TalkerRate| {
        let TalkerPair { security, source, destination, service, .. } = rate.pair.clone();
        (security, source, destination, service)
    };
    let outbound: HashSet<_> =
        all.iter().filter(|rate| rate.pair.direction == Direction::Outbound).map(key).collect();
    all.iter()
        .filter(move |rate| rate.pair.direction == Direction::Outbound || !outbound.contains(&key(rate)))
}

/// `NAMESPACE/NAME`, or an address.
pub(super) fn name(talker: &Talker) -> String {
    match &talker.namespace {
        Some(namespace) => format!("{namespace}/{}", talker.name),
        None => talker.name.clone(),
    }
}

/// `0`, `0.5`, `12`, `1200`.
pub(super) fn decimal(number: f64) -> String {
    if number == 0.0 {
        "0".into()
    } else if number < 9.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

/// `0.3ms`, `12ms`, `1.5s`.
pub(super) fn latency(ms: f64) -> String {
    match ms {
        ms if ms < 9.95 => format!("{ms:.1}ms"),
        ms if ms < 999.5 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}
