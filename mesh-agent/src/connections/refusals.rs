//! The last refusals, kept in memory so that one can be followed to the rule that made it: `GET /v1/refusals?after=SEQ`.
//!
//! ```text
//! refuse, cut_after ─ note ─▶ ring of the last 4,096 ─▶ admin ─▶ meshctl logs, meshctl top
//! ```
//!
//! Invariants: memory is bounded, however many are refused (words are cut, the oldest row goes); to note one is a lock, a
//! copy of handles and no more; nobody who reads is waited for. Numbers count up from 1 and go with an epoch, so that who
//! follows them notices a gap and an agent that was started anew. Not here: what the kernel refuses without an event, which
//! is counted by reason (`meshctl status`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_model::Reason;
use mesh_telemetry::api::{RefusalEvent, RefusalRow, Refusals as Answer, RefusedDestination, RefusedSource};

use super::{About, End};

#[cfg(test)]
mod tests;

/// How many are kept.
const KEPT: usize = 4096;
/// How many an answer has at most.
const AT_ONCE: usize = 1024;
/// Characters of what is said of one.
const WORDS: usize = 512;

/// The last refusals.
#[derive(Debug)]
pub struct Refusals {
    epoch: u64,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The number of the newest.
    last: u64,
    /// Oldest first.
    rows: VecDeque<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    seq: u64,
    at: SystemTime,
    event: RefusalEvent,
    about: About,
    reason: Reason,
    words: Box<str>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { epoch: millis(SystemTime::now()), ring: Mutex::default() }
    }
}

impl Refusals {
    /// A connection never began.
    pub fn note(&self, about: &About, reason: Reason, words: &str) {
        self.keep(RefusalEvent::Refused, about, reason, words);
    }

    /// A connection was ended, because no policy admits it any more.
    pub fn note_cut(&self, about: &About, reason: Reason, words: &str) {
        self.keep(RefusalEvent::Cut, about, reason, words);
    }

    fn keep(&self, event: RefusalEvent, about: &About, reason: Reason, words: &str) {
        let words = match words.char_indices().nth(WORDS) {
            Some((end, _)) => format!("{}…", &words[..end]).into(),
            None => words.into(),
        };
        let (at, about) = (SystemTime::now(), about.clone());
        let mut ring = self.ring();
        ring.last += 1;
        let seq = ring.last;
        if ring.rows.len() >= KEPT {
            ring.rows.pop_front();
        }
        ring.rows.push_back(Refusal { seq, at, event, about, reason, words });
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came after a number, oldest first; without one, the last ones. `limit` at most, and never more than a thousand or so.
    pub fn rows(&self, node: &str, after: Option<u64>, limit: usize) -> Answer {
        let limit = limit.min(AT_ONCE);
        let ring = self.ring();
        let kept = ring.rows.len();
        let first = ring.rows.front().map_or(ring.last + 1, |row| row.seq);
        let skip = match after {
            Some(after) => usize::try_from(after.saturating_add(1).saturating_sub(first)).unwrap_or(kept),
            None => kept.saturating_sub(limit),
        };
        let lost = after.map_or(0, |after| first.saturating_sub(after.saturating_add(1)));
        let refusals = ring.rows.iter().skip(skip).take(limit).map(|row| row.row(node)).collect();
        Answer { node: node.into(), epoch: self.epoch, last: ring.last, lost, refusals }
    }
}

impl Refusal {
    fn row(&self, node: &str) -> RefusalRow {
        let About { direction, path, security, source, destination, service } = &self.about;
        let namespace = |end: &End| end.workload.as_ref().map(|pod| pod.namespace.to_string());
        let workload = |end: &End| end.workload.as_ref().map(|pod| pod.owner.to_string());
        let pod = |end: &End| end.workload.as_ref().map(|pod| pod.name.to_string());
        RefusalRow {
            seq: self.seq,
            time: self.at.into(),
            unix_ms: millis(self.at),
            node: node.into(),
            event: self.event,
            direction: *direction,
            path: *path,
            security: *security,
            reason: self.reason,
            detail: self.words.to_string(),
            policy: self.reason.policy_in(&self.words).map(str::to_owned),
            source: RefusedSource {
                namespace: namespace(source),
                workload: workload(source),
                pod: pod(source),
                identity: source.identity.clone(),
                address: source.address,
            },
            destination: RefusedDestination {
                namespace: namespace(destination)
                    .or_else(|| service.as_ref().map(|service| service.namespace.to_string())),
                workload: workload(destination),
                pod: pod(destination),
                service: service.as_ref().map(|service| service.name.to_string()),
                identity: destination.identity.clone(),
                address: destination.address,
            },
        }
    }
}

fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
