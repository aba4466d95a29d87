//! The counters of one pair, and what they cost.
//!
//! Histograms and reasons come into being with their first value and only while the [`Budget`] has room for their series;
//! what finds none is counted in the pair that the rest is counted under.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use mesh_common::Durations;
use mesh_model::Reason;
use mesh_telemetry::api::Direction;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::durations::{self, Histogram};
use super::key::Labels;

/// Series that every pair has: opened, open, bytes both ways, closed cleanly, retransmitted.
pub(super) const BASE: usize = 6;

/// How many series there may be.
#[derive(Debug)]
pub(super) struct Budget {
    used: AtomicUsize,
    max: AtomicUsize,
    /// How often there was no room.
    pub(super) refused: Counter,
}

/// The counters of one pair.
#[derive(Debug)]
pub struct Pair {
    pub(super) labels: Labels,
    budget: Arc<Budget>,
    /// Where the rest is counted; none for that one itself, whose series are not counted.
    rest: Option<Arc<Pair>>,
    /// Connections begun.
    pub opened: Counter,
    /// Connections open.
    pub open: Gauge,
    /// Bytes from source to destination.
    pub sent: Counter,
    /// Bytes back.
    pub received: Counter,
    /// Segments that were sent again.
    pub retransmits: Counter,
    pub(super) clean: Counter,
    connects: OnceLock<Histogram>,
    round_trips: OnceLock<Histogram>,
    /// Few, and rarely touched.
    reasons: Mutex<Vec<(Row, u64)>>,
    /// Since when one of its ends is nobody's, in seconds of the table's clock; zero: both are somebody's.
    pub(super) gone_since: AtomicU64,
}

/// A counter by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) what: What,
    pub(super) reason: &'static str,
    pub(super) verdict: &'static str,
}

/// What happened for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Closed,
    Failed,
}

impl Budget {
    pub(super) fn of(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max: AtomicUsize::new(max), refused: Counter::default() }
    }

    /// Takes room for so many more, if there is.
    pub(super) fn take(&self, series: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            Some(used + series).filter(|used| *used <= max)
        });
        if taken.is_err() {
            self.refused.inc();
        }
        taken.is_ok()
    }

    fn give_back(&self, series: usize) {
        self.used.fetch_sub(series, Ordering::Relaxed);
    }

    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }
}

impl Pair {
    /// Room for its [`BASE`] has been taken where there is a rest.
    pub(super) fn new(labels: Labels, budget: Arc<Budget>, rest: Option<Arc<Pair>>) -> Self {
        Self {
            labels,
            budget,
            rest,
            opened: Counter::default(),
            open: Gauge::default(),
            sent: Counter::default(),
            received: Counter::default(),
            retransmits: Counter::default(),
            clean: Counter::default(),
            connects: OnceLock::new(),
            round_trips: OnceLock::new(),
            reasons: Mutex::default(),
            gone_since: AtomicU64::new(0),
        }
    }

    /// Counts clean ends.
    pub fn closed_cleanly(&self, count: u64) {
        self.clean.inc_by(count);
    }

    /// Counts an end. `None`: a clean one.
    pub fn closed(&self, reason: Option<Reason>) {
        match reason {
            None => {
                self.clean.inc();
            }
            Some(reason) => self.count(What::Closed, reason, 1),
        }
    }

    /// Counts connections that never began.
    pub fn failed_for(&self, reason: Reason, count: u64) {
        if count > 0 {
            self.count(What::Failed, reason, count);
        }
    }

    /// Counts connects that came to nothing: nobody listened, or nothing came back.
    pub fn failed(&self, count: u64) {
        self.failed_for(Reason::ConnectFailed, count);
    }

    /// How long it took from the application's connect until its destination had answered.
    pub fn connected_after(&self, took: Duration) {
        if !super::is_off() {
            self.histogram(|pair| &pair.connects, |histogram| histogram.observe(took));
        }
    }

    /// The smoothed round-trip time of a connection that ended.
    pub fn round_trip(&self, took: Duration) {
        if !super::is_off() {
            self.histogram(|pair| &pair.round_trips, |histogram| histogram.observe(took));
        }
    }

    /// Whose it is.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Seen from which end.
    pub fn direction(&self) -> Direction {
        self.labels.direction
    }

    /// What the kernel has measured since: connects and round trips.
    pub fn measured(&self, connects: &Durations, round_trips: &Durations) {
        if *connects != Durations::NONE {
            self.histogram(|pair| &pair.connects, |histogram| histogram.add(connects));
        }
        if *round_trips != Durations::NONE {
            self.histogram(|pair| &pair.round_trips, |histogram| histogram.add(round_trips));
        }
    }

    fn histogram(&self, which: impl Fn(&Self) -> &OnceLock<Histogram>, then: impl FnOnce(&Histogram)) {
        match (self.room_for(which(self)), &self.rest) {
            (Some(mine), _) => then(mine),
            (None, Some(rest)) => rest.histogram(which, then),
            (None, None) => {}
        }
    }

    /// Its histogram, where there is one or room for one: what there was none for last time there may be by now.
    fn room_for<'a>(&self, histogram: &'a OnceLock<Histogram>) -> Option<&'a Histogram> {
        if let Some(histogram) = histogram.get() {
            return Some(histogram);
        }
        let is_free = self.rest.is_none();
        if !is_free && !self.budget.take(durations::SERIES) {
            return None;
        }
        if histogram.set(Histogram::default()).is_err() && !is_free {
            // Somebody else was faster.
            self.budget.give_back(durations::SERIES);
        }
        histogram.get()
    }

    fn count(&self, what: What, reason: Reason, count: u64) {
        let row = Row {
            what,
            reason: reason.as_str(),
            verdict: if reason.is_denial() { "denied" } else { "allowed" },
        };
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, total)) = reasons.iter_mut().find(|(other, _)| *other == row) {
            *total += count;
            return;
        }
        if self.rest.is_none() || self.budget.take(1) {
            reasons.push((row, count));
            return;
        }
        drop(reasons);
        if let Some(rest) = &self.rest {
            rest.count(what, reason, count);
        }
    }

    pub(super) fn connects(&self) -> Option<&Histogram> {
        self.connects.get()
    }

    pub(super) fn round_trips(&self) -> Option<&Histogram> {
        self.round_trips.get()
    }

    pub(super) fn reasons(&self, what: What) -> Vec<(Row, u64)> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().filter(|(row, _)| row.what == what).copied().collect()
    }

    /// It is over: its room is free.
    pub(super) fn dismissed(&self) {
        let histograms = usize::from(self.connects().is_some()) + usize::from(self.round_trips().is_some());
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.budget.give_back(BASE + histograms * durations::SERIES + reasons);
    }
}
