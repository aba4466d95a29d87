//! The live table: every connection that this agent carries, who is at its ends, and how much has passed.
//!
//! ```text
//! outbound, inbound ── open(About) ─▶ Open ── fail(reason) | close(outcome) ─▶ metrics, log
//!                                       └── meter: counted by the relay, read by anyone
//! ```
//!
//! An `Open` that is dropped takes its row along, whatever happened to its task. Bytes of running connections are moved
//! into the counters when metrics are asked for, so a long transfer shows while it runs.

mod told;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_model::{Identity, Reason, ServiceKey, Workload};
use mesh_telemetry::api::{ConnectionPath, ConnectionRow, DestinationEnd, Direction, Security, SourceEnd};

use crate::metrics::{Metrics, Pair, PairKey};
use crate::relay::Meter;
use told::Told;

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct End {
    /// The pod, where it is one of the mesh's.
    pub workload: Option<Arc<Workload>>,
    /// Who it has shown to be.
    pub identity: Option<Identity>,
    /// Its address as the application on the other end sees it.
    pub address: SocketAddr,
}

/// What is known of a connection when it begins.
#[derive(Clone, Debug)]
pub struct About {
    /// Seen from this node's pod.
    pub direction: Direction,
    /// Which way its bytes go.
    pub path: ConnectionPath,
    /// What protects them.
    pub security: Security,
    /// Who dialled.
    pub source: End,
    /// Who was dialled.
    pub destination: End,
    /// The Service that was dialled.
    pub service: Option<ServiceKey>,
}

/// The table.
#[derive(Debug)]
pub struct Connections {
    next: AtomicU64,
    /// Held for an insert, a removal or a copy of the handles.
    live: Mutex<HashMap<u64, Arc<Live>>>,
    metrics: Metrics,
    told: Told,
}

#[derive(Debug)]
struct Live {
    id: u64,
    about: About,
    meter: Meter,
    pair: Arc<Pair>,
    counted: Counted,
}

/// How much of the meter is in the counters already.
#[derive(Debug, Default)]
struct Counted {
    sent: AtomicU64,
    received: AtomicU64,
}

/// A row of the table, removed on drop.
#[derive(Debug)]
pub struct Open {
    table: Arc<Connections>,
    live: Arc<Live>,
}

impl Connections {
    /// An empty table that counts into `metrics`.
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { next: AtomicU64::new(1), live: Mutex::default(), metrics, told: Told::default() })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection.
    pub fn open(self: &Arc<Self>, about: About) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pair = self.metrics.pair(&about);
        pair.opened.inc();
        pair.open.inc();
        let live = Arc::new(Live { id, about, meter: Meter::default(), pair, counted: Counted::default() });
        self.live().insert(id, live.clone());
        Open { table: self.clone(), live }
    }

    /// Counts a connection that never began, and logs it unless the log is full of its like.
    pub fn refuse(&self, about: &About, reason: Reason, detail: &dyn std::fmt::Display) {
        self.count_refused(about, reason);
        let Some(untold) = self.told.tell(reason) else { return };
        tracing::info!(
            reason = reason.as_str(),
            untold = (untold > 0).then_some(untold),
            source = %about.source.address,
            destination = %about.destination.address,
            direction = about.direction.as_str(),
            %detail,
            "connection refused"
        );
    }

    /// Counts a connection that never began, whose refusal is logged elsewhere.
    pub fn count_refused(&self, about: &About, reason: Reason) {
        self.metrics.failed(PairKey::of(about), reason);
    }

    /// All rows, oldest first.
    pub fn rows(&self) -> Vec<ConnectionRow> {
        let mut handles: Vec<Arc<Live>> = self.live().values().cloned().collect();
        handles.sort_by_key(|live| live.id);
        handles.iter().map(|live| live.row()).collect()
    }

    /// Moves the bytes of running connections into the counters, and what the log has left out into the log.
    pub fn count_bytes(&self) {
        for (reason, untold) in self.told.rest() {
            tracing::info!(reason = reason.as_str(), untold, "more connections refused");
        }
        let handles: Vec<Arc<Live>> = self.live().values().cloned().collect();
        for live in handles {
            live.count_bytes();
        }
    }
}

impl Open {
    /// Where the relay counts.
    pub fn meter(&self) -> &Meter {
        &self.live.meter
    }

    /// It ended. `None`: cleanly.
    pub fn close(self, reason: Option<Reason>) {
        self.live.pair.closed(reason);
        tracing::debug!(
            id = self.live.id,
            reason = reason.map_or("clean", Reason::as_str),
            "connection closed"
        );
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.table.live().remove(&self.live.id);
        self.live.count_bytes();
        self.live.pair.open.dec();
    }
}

impl Live {
    fn count_bytes(&self) {
        let moved = |total: u64, counted: &AtomicU64| {
            total.saturating_sub(counted.fetch_max(total, Ordering::Relaxed))
        };
        let (sent, received) = self.bytes();
        self.pair.sent.inc_by(moved(sent, &self.counted.sent));
        self.pair.received.inc_by(moved(received, &self.counted.received));
    }

    /// From source to destination, and back. The meter counts from this node's pod.
    fn bytes(&self) -> (u64, u64) {
        let sent = self.meter.sent.load(Ordering::Relaxed);
        let received = self.meter.received.load(Ordering::Relaxed);
        match self.about.direction {
            Direction::Outbound => (sent, received),
            Direction::Inbound => (received, sent),
        }
    }

    fn row(&self) -> ConnectionRow {
        let About { direction, path, security, source, destination, service } = &self.about;
        let namespace = |end: &End| end.workload.as_ref().map(|workload| workload.namespace.to_string());
        let name = |end: &End| end.workload.as_ref().map(|workload| workload.name.to_string());
        let (bytes_sent, bytes_received) = self.bytes();
        ConnectionRow {
            id: self.id,
            direction: *direction,
            path: *path,
            security: *security,
            src: SourceEnd {
                namespace: namespace(source),
                name: name(source),
                identity: source.identity.clone(),
                addr: source.address,
            },
            dst: DestinationEnd {
                namespace: namespace(destination)
                    .or_else(|| service.as_ref().map(|service| service.namespace.to_string())),
                name: name(destination),
                service: service.as_ref().map(|service| service.name.to_string()),
                identity: destination.identity.clone(),
                addr: destination.address,
            },
            bytes_sent,
            bytes_received,
        }
    }
}
