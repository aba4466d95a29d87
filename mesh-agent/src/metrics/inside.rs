//! How the agent itself does: its maps, its queues, its configuration, its runtime. Read when Prometheus asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use mesh_model::Reason;
use mesh_telemetry::api::PodRow;
use mesh_telemetry::metrics::Registry;
use mesh_xds::client::ClientStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use tokio::runtime::Handle;

/// How often the kernel's maps are counted at most: it is a walk over every key.
const COUNT_EVERY: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// How full one of the kernel's maps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub map: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that there may be.
    pub max_entries: u64,
}

/// What is looked at.
pub struct Inside<'a> {
    /// Series of pairs: how many there are, and may be.
    pub series: (usize, usize),
    /// Tunnels' connections to peers, and tunnels on them.
    pub pool: (usize, usize),
    /// Handshakes at port 15008 that are not finished.
    pub handshakes: usize,
    /// The stream to the controller.
    pub client: &'a ClientStatus,
    /// The node's pods.
    pub pods: &'a [PodRow],
    /// Lines that the access log had no room for, of this process.
    pub log_dropped: u64,
    /// Ends of connections that the kernel could not tell of, ever.
    pub endings_lost: u64,
}

/// The gauges and counters.
#[derive(Debug, Default)]
pub struct Insides {
    lost_before: OnceLock<u64>,
    entries: Family<MapLabel, Gauge>,
    max_entries: Family<MapLabel, Gauge>,
    counted: Mutex<Option<Instant>>,
    series: Gauge,
    max_series: Gauge,
    connections: Gauge,
    streams: Gauge,
    handshakes: Gauge,
    not_captured: Family<ReasonLabel, Gauge>,
    version: Gauge<u64, AtomicU64>,
    applied: Gauge<f64, AtomicU64>,
    updates: Family<ResultLabel, Counter>,
    log_dropped: Counter,
    workers: Gauge,
    tasks: Gauge,
    queue: Gauge,
    busy: Counter<f64, AtomicU64>,
}

impl Insides {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        registry.register_by(&["map"], "map_entries", "Entries of the kernel's maps", all.entries.clone());
        registry.register_by(
            &["map"],
            "map_max_entries",
            "Entries that the kernel's maps have room for",
            all.max_entries.clone(),
        );
        registry.register("metric_series", "Series of pairs of source and destination", all.series.clone());
        registry.register("metric_max_series", "Series of pairs that there may be", all.max_series.clone());
        registry.register(
            "pool_connections",
            "Connections to other agents that tunnels share",
            all.connections.clone(),
        );
        registry.register("pool_streams", "Tunnels on them", all.streams.clone());
        registry.register(
            "handshakes_pending",
            "Handshakes of other agents that are not finished",
            all.handshakes.clone(),
        );
        registry.register_by(
            &["reason"],
            "pods_not_captured",
            "Pods of this node that are to be in the mesh and are not, or are left alone, by why",
            all.not_captured.clone(),
        );
        registry.register(
            "config_version",
            "The version of the world that was last applied, as a number to compare and not to order",
            all.version.clone(),
        );
        registry.register(
            "config_timestamp_seconds",
            "When the controller's last change was applied, in seconds since the epoch; 0 before the first",
            all.applied.clone(),
        );
        registry.register_by(
            &["result"],
            "config_updates",
            "Changes from the controller, by what became of them: applied or refused",
            all.updates.clone(),
        );
        registry.register(
            "access_log_dropped",
            "Lines that the access log had no room for",
            all.log_dropped.clone(),
        );
        registry.register("runtime_workers", "Threads that run tasks", all.workers.clone());
        registry.register("runtime_tasks", "Tasks that are alive", all.tasks.clone());
        registry.register(
            "runtime_queue_depth",
            "Tasks that wait for a thread in the shared queue",
            all.queue.clone(),
        );
        registry.register(
            "runtime_busy_seconds",
            "Time that threads spent running tasks, in seconds",
            all.busy.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register_by(&["version"], "build", "The agent's version", build);
        all
    }

    /// Reads everything anew. On a task of the runtime.
    pub fn refresh(&self, inside: &Inside<'_>) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.series.set(count(inside.series.0));
        self.max_series.set(count(inside.series.1));
        self.connections.set(count(inside.pool.0));
        self.streams.set(count(inside.pool.1));
        self.handshakes.set(count(inside.handshakes));
        let mut reasons: BTreeMap<&'static str, i64> = BTreeMap::new();
        for reason in inside.pods.iter().filter_map(|pod| pod.reason) {
            *reasons.entry(Reason::as_str(reason)).or_default() += 1;
        }
        self.not_captured.clear();
        for (reason, pods) in reasons {
            self.not_captured.get_or_create(&ReasonLabel { reason }).set(pods);
        }
        if let Some(version) = &inside.client.applied {
            // As much of it as a float holds.
            let number = version.0.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
            self.version.set(number);
        }
        if let Some(at) = inside.client.applied_at {
            self.applied.set(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
        for (result, count) in [("applied", inside.client.updates), ("refused", inside.client.refused)] {
            self.updates.get_or_create(&ResultLabel { result }).inner().store(count, Ordering::Relaxed);
        }
        let dropped = inside.log_dropped + self.lost_since(inside.endings_lost);
        self.log_dropped.inner().store(dropped, Ordering::Relaxed);
        self.runtime(&Handle::current());
    }

    /// How many of these the kernel lost since this was first asked, at the agent's start. Its counter outlives the agent, the
    /// agent's own does not: a sum that falls by a part of itself would be read as a counter that began anew.
    pub fn lost_since(&self, endings_lost: u64) -> u64 {
        endings_lost.saturating_sub(*self.lost_before.get_or_init(|| endings_lost))
    }

    fn runtime(&self, handle: &Handle) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let runtime = handle.metrics();
        let workers = runtime.num_workers();
        self.workers.set(count(workers));
        self.tasks.set(count(runtime.num_alive_tasks()));
        self.queue.set(count(runtime.global_queue_depth()));
        let busy: Duration = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker)).sum();
        self.busy.inner().store(busy.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// Whether it is time to count the kernel's maps again.
    pub fn is_count_due(&self) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = counted.is_none_or(|last| last.elapsed() >= COUNT_EVERY);
        if is_due {
            *counted = Some(Instant::now());
        }
        is_due
    }

    /// What came of it.
    pub fn counted(&self, maps: &[Fill]) {
        for Fill { map, entries, max_entries } in maps {
            let put = |family: &Family<MapLabel, Gauge>, number: u64| {
                family.get_or_create(&MapLabel { map }).set(i64::try_from(number).unwrap_or(i64::MAX));
            };
            put(&self.entries, *entries);
            put(&self.max_entries, *max_entries);
        }
    }
}
