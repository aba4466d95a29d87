//! `GET /v1/talkers`: the totals of each pair, for who measures rates by them (`meshctl top`).
//!
//! The same counters as Prometheus reads, as rows: what a profile leaves out of labels is left out here. Bounded: an answer
//! has the busiest pairs.

use std::cmp::Reverse;

use mesh_telemetry::api::{Talker, TalkerPair, TalkerRow};

use super::Metrics;
use super::key::Kept;
use super::pair::{Pair, What};

/// Rows of an answer.
const AT_ONCE: usize = 10_000;
/// Ends for which there is no room.
const OVERFLOW: &str = "overflow";
/// An end that is no workload of the mesh.
const OUTSIDE: &str = "outside";
/// All workloads of a namespace, where the profile does not tell them apart.
const ALL: &str = "*";

impl Metrics {
    /// The totals of the busiest pairs.
    pub fn talkers(&self) -> Vec<TalkerRow> {
        let mut rows: Vec<TalkerRow> = self.pairs.all().iter().map(|pair| row(pair)).collect();
        if rows.len() > AT_ONCE {
            rows.sort_by_key(|row| Reverse(row.bytes_sent.saturating_add(row.bytes_received)));
            rows.truncate(AT_ONCE);
        }
        rows
    }
}

fn row(pair: &Pair) -> TalkerRow {
    let key = &pair.labels;
    let ends = key.ends.as_ref();
    let (connect_us, connects) = pair.connects().map(|connects| connects.total()).unzip();
    TalkerRow {
        pair: TalkerPair {
            direction: key.direction,
            path: None,
            security: key.security,
            source: talker(ends.map(|ends| &ends.source)),
            destination: talker(ends.map(|ends| &ends.destination)),
            service: ends.and_then(|ends| ends.service.as_ref()).map(ToString::to_string),
        },
        open: u64::try_from(pair.open.get()).unwrap_or(0),
        opened: pair.opened.get(),
        failed: pair.reasons(What::Failed).iter().map(|(_, count)| count).sum(),
        bytes_sent: pair.sent.get(),
        bytes_received: pair.received.get(),
        connect_us,
        connects: connects.unwrap_or(0),
    }
}

fn talker(who: Option<&Kept>) -> Talker {
    let Some(who) = who else { return Talker { namespace: None, name: OVERFLOW.into() } };
    let name = match (&who.namespace, &who.workload) {
        (_, Some(workload)) => workload,
        (Some(_), None) => ALL,
        (None, None) => OUTSIDE,
    };
    Talker { namespace: who.namespace.as_ref().map(ToString::to_string), name: name.into() }
}
