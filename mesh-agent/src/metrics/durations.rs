//! How long things take: a histogram that the kernel's own can be added to.
//!
//! Bounds are those of [`mesh_common::Durations`], so that what the kernel has counted and what the agent has measured are
//! one distribution. Not a histogram of prometheus-client, which takes one observation at a time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_common::Durations;
use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// Buckets, with the last that has no bound.
const BUCKETS: usize = Durations::BOUNDS.len() + 1;
/// What one of them is as series: its buckets, their sum and their count.
pub(super) const SERIES: usize = BUCKETS + 2;

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    micros: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

impl Histogram {
    /// Adds one.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = Durations::BOUNDS.iter().position(|bound| micros <= u64::from(*bound));
        self.counts[bucket.unwrap_or(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Adds what the kernel has counted.
    pub fn add(&self, more: &Durations) {
        for (mine, more) in self.counts.iter().zip(more.counts) {
            mine.fetch_add(more, Ordering::Relaxed);
        }
        self.micros.fetch_add(more.sum, Ordering::Relaxed);
    }

    /// All of them together in microseconds, and how many they are.
    pub(super) fn total(&self) -> (u64, u64) {
        let count = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        (self.micros.load(Ordering::Relaxed), count)
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let mut buckets = [(f64::INFINITY, 0); BUCKETS];
        for ((bucket, bound), count) in buckets.iter_mut().zip(bounds()).zip(&self.counts) {
            *bucket = (bound, count.load(Ordering::Relaxed));
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Upper bounds in seconds; the encoder writes the last as `+Inf`.
pub(super) fn bounds() -> impl Iterator<Item = f64> {
    Durations::BOUNDS.iter().map(|micros| f64::from(*micros) / 1e6).chain([f64::INFINITY])
}
