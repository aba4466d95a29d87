//! The table of pairs: what every connection is counted in, bounded, and as text.
//!
//! ```text
//! About ─▶ key ─ profile ─▶ hash ─▶ pair, or the one that the rest is counted under
//! Prometheus asks ─▶ View of each metric ─▶ a line for each pair
//! ends that are nobody's any more, for a while ─▶ forgotten
//! ```
//!
//! Invariants: never more series than the operator allows, but for those of the rest, which are a few dozen; a pair that a
//! connection still counts in is not forgotten.

use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};
use mesh_model::MetricsProfile;
use mesh_telemetry::api::{Direction, Security};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use super::key::{Kept, Labels, PairKey, With};
use super::pair::{self, Budget, Pair, Row, What};

/// How long a pair is shown after one of its ends went: Prometheus has seen its last word by then.
pub(super) const SHOWN_AFTER: Duration = Duration::from_secs(5 * 60);
/// How many series there may be unless the operator says otherwise.
pub(super) const MAX_SERIES: u32 = 20_000;

/// All pairs.
#[derive(Debug)]
pub(super) struct Pairs {
    /// Held for reading while a pair is looked up: once a connection. For writing while one is added, or some are forgotten.
    table: RwLock<Table>,
    /// What of pairs is shown. Beside the table, so that keys are reduced and hashed without it.
    profile: AtomicU8,
    hasher: DefaultHashBuilder,
    pub(super) budget: Arc<Budget>,
    began: Instant,
    swept: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    /// By the hash of key and profile, which is beside each: text is hashed once a look-up, and never when the table grows.
    pairs: HashTable<(u64, Arc<Pair>)>,
    /// What the rest is counted under: one a direction, security and profile.
    rest: Vec<Arc<Pair>>,
}

impl Table {
    fn pair(&self, hash: u64, key: &PairKey<'_>, profile: MetricsProfile) -> Option<Arc<Pair>> {
        let is_it = |(other, pair): &(u64, Arc<Pair>)| *other == hash && pair.labels.are_of(key, profile);
        self.pairs.find(hash, is_it).map(|(_, pair)| pair.clone())
    }
}

/// Who is there, by namespace and workload.
#[derive(Debug, Default)]
pub struct Present {
    /// On this node.
    pub here: HashSet<(Arc<str>, Arc<str>)>,
    /// Anywhere.
    pub anywhere: HashSet<(Arc<str>, Arc<str>)>,
}

impl Default for Pairs {
    fn default() -> Self {
        Self {
            table: RwLock::default(),
            profile: AtomicU8::new(MetricsProfile::default() as u8),
            hasher: DefaultHashBuilder::default(),
            budget: Arc::new(Budget::of(MAX_SERIES as usize)),
            began: Instant::now(),
            swept: AtomicU64::new(0),
        }
    }
}

impl Pairs {
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self) -> MetricsProfile {
        let now = self.profile.load(Ordering::Relaxed);
        let all = [MetricsProfile::Service, MetricsProfile::Workload, MetricsProfile::Full];
        all.into_iter().find(|profile| *profile as u8 == now).unwrap_or_default()
    }

    /// What holds from now on. Pairs of another profile are shown until nothing is counted in them any more, and those for which
    /// there would be no room any more until their ends are gone.
    pub(super) fn set(&self, profile: MetricsProfile, max_series: u32) {
        self.profile.store(profile as u8, Ordering::Relaxed);
        self.budget.set_max(max_series as usize);
    }

    /// The counters for a connection.
    pub(super) fn pair(&self, key: PairKey<'_>) -> Arc<Pair> {
        let profile = self.profile();
        let key = key.reduced(profile);
        let hash = self.hasher.hash_one((key, profile));
        let found = self.table().pair(hash, &key, profile);
        found.unwrap_or_else(|| self.made(hash, key, profile))
    }

    /// New ones, or those of the rest.
    #[cold]
    fn made(&self, hash: u64, key: PairKey<'_>, profile: MetricsProfile) -> Arc<Pair> {
        let mut table = self.table_mut();
        // Somebody else may have been faster.
        if let Some(pair) = table.pair(hash, &key, profile) {
            return pair;
        }
        let labels = Labels::overflow(key.direction, key.security, profile);
        let rest = self.rest_in(&mut table, labels);
        if !self.budget.take(pair::BASE) {
            return rest;
        }
        let pair = Arc::new(Pair::new(key.labels(profile), self.budget.clone(), Some(rest)));
        table.pairs.insert_unique(hash, (hash, pair.clone()), |(hash, _)| *hash);
        pair
    }

    fn rest_in(&self, table: &mut Table, labels: Labels) -> Arc<Pair> {
        if let Some(rest) = table.rest.iter().find(|pair| pair.labels == labels) {
            return rest.clone();
        }
        let rest = Arc::new(Pair::new(labels, self.budget.clone(), None));
        table.rest.push(rest.clone());
        rest
    }

    /// What is counted of which nobody knows whose it is.
    pub(super) fn rest(&self, direction: Direction, security: Security) -> Arc<Pair> {
        let labels = Labels::overflow(direction, security, self.profile());
        self.rest_in(&mut self.table_mut(), labels)
    }

    /// Those with these labels; `None` where another profile is in force by now.
    pub(super) fn labelled(&self, labels: &Labels) -> Option<Arc<Pair>> {
        (labels.profile == self.profile()).then(|| match labels.key() {
            Some(key) => self.pair(key),
            None => self.rest(labels.direction, labels.security),
        })
    }

    /// A pair that is never shown.
    pub(super) fn nobody(&self, key: PairKey<'_>) -> Arc<Pair> {
        let labels = Labels::overflow(key.direction, key.security, self.profile());
        Arc::new(Pair::new(labels, self.budget.clone(), None))
    }

    /// Whether it is time to look for pairs whose ends are gone.
    pub(super) fn is_sweep_due(&self) -> bool {
        let now = self.now(Instant::now());
        let swept = self.swept.load(Ordering::Relaxed);
        now >= swept + 30
            && self.swept.compare_exchange(swept, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn now(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() + 1
    }

    /// Forgets pairs in which nothing is counted any more.
    pub(super) fn sweep(&self, present: &Present, at: Instant) {
        let now = self.now(at);
        let profile = self.profile();
        let names = Names::of(present);
        self.table_mut().pairs.retain(|(_, pair)| {
            let is_idle = pair.open.get() == 0 && Arc::strong_count(pair) == 1;
            let is_over = pair.labels.profile != profile || !names.have_both(&pair.labels);
            if !is_idle || !is_over {
                pair.gone_since.store(0, Ordering::Relaxed);
                return true;
            }
            let since = match pair.gone_since.load(Ordering::Relaxed) {
                0 => now,
                since => since,
            };
            pair.gone_since.store(since, Ordering::Relaxed);
            let stays = now < since + SHOWN_AFTER.as_secs();
            if !stays {
                pair.dismissed();
            }
            stays
        });
    }

    pub(super) fn all(&self) -> Vec<Arc<Pair>> {
        let table = self.table();
        let rest = table.rest.iter().filter(|pair| pair.is_used());
        table.pairs.iter().map(|(_, pair)| pair).chain(rest).cloned().collect()
    }
}

impl Pair {
    /// The rest is shown once there is some.
    fn is_used(&self) -> bool {
        self.opened.get() > 0
            || self.connects().is_some()
            || self.round_trips().is_some()
            || [What::Closed, What::Failed].into_iter().any(|what| !self.reasons(what).is_empty())
    }
}

/// Those present, to be asked after by name.
struct Names<'a> {
    here: Known<'a>,
    anywhere: Known<'a>,
}

struct Known<'a> {
    workloads: HashSet<(&'a str, &'a str)>,
    /// For pairs whose profile tells no workloads apart.
    namespaces: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(present: &'a Present) -> Self {
        let known = |set: &'a HashSet<(Arc<str>, Arc<str>)>| Known {
            workloads: set.iter().map(|(namespace, workload)| (&**namespace, &**workload)).collect(),
            namespaces: set.iter().map(|(namespace, _)| &**namespace).collect(),
        };
        Self { here: known(&present.here), anywhere: known(&present.anywhere) }
    }

    fn have_both(&self, labels: &Labels) -> bool {
        self.here.has(labels.local()) && self.anywhere.has(labels.remote())
    }
}

impl Known<'_> {
    /// An end that never was a workload is not gone.
    fn has(&self, who: Option<&Kept>) -> bool {
        let Some((who, namespace)) = who.and_then(|who| Some((who, who.namespace.as_deref()?))) else {
            return true;
        };
        match who.workload.as_deref() {
            Some(workload) => self.workloads.contains(&(namespace, workload)),
            None => self.namespaces.contains(namespace),
        }
    }
}

/// One metric of all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Opened,
    Open,
    Bytes,
    Closed,
    Failed,
    Retransmits,
    Connects,
    RoundTrips,
}

/// It, as text.
#[derive(Debug)]
pub(super) struct View {
    pub(super) pairs: Arc<Pairs>,
    pub(super) which: Which,
}

impl EncodeMetric for View {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for pair in self.pairs.all() {
            self.which.encode(&pair, &mut encoder)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.which {
            Which::Open => MetricType::Gauge,
            Which::Connects | Which::RoundTrips => MetricType::Histogram,
            _ => MetricType::Counter,
        }
    }
}

impl Which {
    /// Those of a [pair](Labels) stand for all that the profile shows of one.
    pub(super) fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Opened => &["pair", "verdict"],
            Self::Bytes => &["pair", "flow"],
            Self::Closed | Self::Failed => &["pair", "reason", "verdict"],
            Self::Open | Self::Retransmits | Self::Connects | Self::RoundTrips => &["pair"],
        }
    }

    fn encode(self, pair: &Pair, encoder: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = &pair.labels;
        match self {
            Self::Opened => {
                counter(encoder, &With { labels, more: [("verdict", "allowed")] }, pair.opened.get())
            }
            Self::Open => encoder.encode_family(labels)?.encode_gauge(&pair.open.get()),
            Self::Bytes => {
                counter(encoder, &With { labels, more: [("flow", "sent")] }, pair.sent.get())?;
                counter(encoder, &With { labels, more: [("flow", "received")] }, pair.received.get())
            }
            Self::Closed => {
                let clean = [("reason", "clean"), ("verdict", "allowed")];
                counter(encoder, &With { labels, more: clean }, pair.clean.get())?;
                by_reason(encoder, pair, What::Closed)
            }
            Self::Failed => by_reason(encoder, pair, What::Failed),
            Self::Retransmits => encoder
                .encode_family(labels)?
                .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
                    &pair.retransmits.get(),
                    None,
                ),
            Self::Connects => match pair.connects() {
                Some(histogram) => histogram.encode(encoder.encode_family(labels)?),
                None => Ok(()),
            },
            Self::RoundTrips => match pair.round_trips() {
                Some(histogram) => histogram.encode(encoder.encode_family(labels)?),
                None => Ok(()),
            },
        }
    }
}

fn by_reason(encoder: &mut MetricEncoder<'_>, pair: &Pair, what: What) -> Result<(), fmt::Error> {
    for (Row { reason, verdict, .. }, count) in pair.reasons(what) {
        let more = [("reason", reason), ("verdict", verdict)];
        counter(encoder, &With { labels: &pair.labels, more }, count)?;
    }
    Ok(())
}

fn counter<const N: usize>(
    encoder: &mut MetricEncoder<'_>,
    labels: &With<'_, N>,
    count: u64,
) -> Result<(), fmt::Error> {
    encoder
        .encode_family(labels)?
        .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&count, None)
}
