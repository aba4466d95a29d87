//! The live table: every connection that this agent carries, who is at its ends, and how much has passed.
//!
//! ```text
//! outbound, inbound ── open(About) ─▶ Open ── close(outcome) | cut(reason) ─▶ metrics, access log
//!                │                     └── meter: counted by the relay, read by anyone
//!                └── refuse(About, reason) ─▶ metrics, access log, log
//! ```
//!
//! Through a tunnel connect(2) succeeds before the destination was asked: a connection that its peer refuses then never began, and is
//! counted and told of as one that was refused.
//!
//! A policy that no longer admits a connection cuts it (`recheck`): its relay is dropped, which resets both ends.
//!
//! An `Open` that is dropped takes its row along, whatever happened to its task. Bytes of running connections are moved
//! into the counters when metrics are asked for, so a long transfer shows while it runs.

mod access;
mod recheck;
mod refusals;
mod told;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use mesh_model::policy::Verdict;
use mesh_model::{Identity, Reason, ServiceKey, Topic, Workload};
use mesh_telemetry::api::{ConnectionPath, ConnectionRow, DestinationEnd, Direction, Security, SourceEnd};
use tokio::sync::Notify;

use crate::metrics::{Metrics, Pair, PairKey};
use crate::relay::{self, Meter, Outcome};
use crate::sightings::Sightings;
pub use access::{AccessLog, Ended, Transport};
pub use recheck::Touched;
pub use refusals::Refusals;
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
    access: AccessLog,
    told: Told,
    /// The same of what Audit policies would have changed.
    audited: Told,
    sightings: Sightings,
    refusals: Refusals,
}

#[derive(Debug)]
struct Live {
    id: u64,
    about: About,
    meter: Meter,
    pair: Arc<Pair>,
    counted: Counted,
    /// A policy in mode Audit would have refused it.
    audited: bool,
    /// How it ended has been said.
    is_over: AtomicBool,
    /// Why it is to end at once; said once.
    cut: OnceLock<(Reason, String)>,
    /// Wakes its relay when that is said.
    wake: Notify,
}

/// How much of the meter is in the counters already.
#[derive(Debug, Default)]
struct Counted {
    sent: AtomicU64,
    received: AtomicU64,
    opened: AtomicBool,
    answered: AtomicBool,
}

/// A row of the table, removed on drop.
#[derive(Debug)]
pub struct Open {
    table: Arc<Connections>,
    live: Arc<Live>,
}

impl Connections {
    /// An empty table that counts into `metrics` and writes to `access`.
    pub fn new(metrics: Metrics, access: AccessLog) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(1),
            live: Mutex::default(),
            metrics,
            access,
            told: Told::default(),
            audited: Told::default(),
            sightings: Sightings::default(),
            refusals: Refusals::default(),
        })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection that begins now.
    pub fn open(self: &Arc<Self>, about: About) -> Open {
        self.open_since(about, Instant::now())
    }

    /// Adds a connection that the application dialled at that time.
    pub fn open_since(self: &Arc<Self>, about: About, began: Instant) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.sightings.saw(&about, 1);
        let pair = self.metrics.pair(&about);
        pair.open.inc();
        let audited = self.access.was_audited(&about);
        let waits = about.direction == Direction::Outbound && about.security == Security::Mtls;
        let live = Arc::new(Live {
            id,
            about,
            meter: Meter::since(began),
            pair,
            counted: Counted::default(),
            audited,
            is_over: AtomicBool::new(false),
            cut: OnceLock::new(),
            wake: Notify::new(),
        });
        if !waits {
            live.count_opened();
        }
        self.live().insert(id, live.clone());
        Open { table: self.clone(), live }
    }

    /// Counts a connection that never began, and logs it unless the log is full of its like.
    pub fn refuse(&self, about: &About, reason: Reason, detail: &dyn std::fmt::Display) {
        self.metrics.failed(PairKey::of(about), reason);
        let untold = self.told.tell(reason);
        // A handshake that failed is no connection of an application's yet, and anybody can make as many as they like.
        let is_stranger = about.direction == Direction::Inbound && reason.topic() == Topic::Tls;
        if untold.is_some() || !is_stranger {
            self.access.refused(about, reason, detail);
        }
        self.refusals.note(about, reason, &detail.to_string());
        let Some(untold) = untold else { return };
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

    /// The same of one whose refusal the log has from elsewhere.
    pub fn count_refused(&self, about: &About, reason: Reason) {
        self.metrics.failed(PairKey::of(about), reason);
        self.access.refused(about, reason, &"");
        self.refusals.note(about, reason, "");
    }

    /// The access log.
    pub fn access(&self) -> &AccessLog {
        &self.access
    }

    /// Counts what an Audit policy would have changed, and logs it unless the log is full of its like.
    pub fn audit(&self, about: &About, would: &Verdict<'_>) {
        self.metrics.audited(would);
        self.access.note_audit(about);
        let reason = would.reason().unwrap_or(Reason::PolicyNotAllowed);
        let Some(untold) = self.audited.tell(reason) else { return };
        tracing::info!(
            untold = (untold > 0).then_some(untold),
            would = if would.is_allowed() { "admit" } else { "refuse" },
            source = %about.source.address,
            source_identity = about.source.identity.as_ref().map(tracing::field::display),
            destination = %about.destination.address,
            policy = would.decided_by().map(|(key, _)| tracing::field::display(key)),
            "policy audit: {would}"
        );
    }

    /// Counts a connection that was ended because no policy admits it any more, and says so.
    pub fn cut_after(&self, about: &About, reason: Reason, detail: &str, ended: &Ended) {
        self.metrics.pair(about).closed(Some(reason));
        self.tell_cut(about, reason, detail, ended);
    }

    fn tell_cut(&self, about: &About, reason: Reason, detail: &str, ended: &Ended) {
        self.access.cut(about, reason, detail, ended);
        self.refusals.note_cut(about, reason, detail);
        tracing::info!(
            reason = reason.as_str(),
            source = %about.source.address,
            destination = %about.destination.address,
            direction = about.direction.as_str(),
            detail,
            "connection closed: no policy admits it any more"
        );
    }

    /// Who talked to this node's pods.
    pub fn sightings(&self) -> &Sightings {
        &self.sightings
    }

    /// The last connections that were refused, or cut.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
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

/// Runs a connection's relay to its end, or until the connection is cut, and takes its row out of the table.
pub async fn carry(open: Open, relay: impl AsyncFnOnce(&Meter) -> Outcome) {
    let outcome = tokio::select! {
        biased;
        outcome = relay(&open.live.meter) => Some(outcome),
        () = open.live.wake.notified() => None,
    };
    match (outcome, open.live.cut.get()) {
        (Some(outcome), _) => {
            let reason = match outcome.end {
                relay::End::Clean => None,
                relay::End::Reset { .. } => Some(Reason::Reset),
                relay::End::Refused { .. } => Some(Reason::PeerRefused),
                relay::End::Error(reason) => Some(reason),
            };
            let gave_up = outcome.end == relay::End::Reset { by: relay::Side::App };
            match (reason.filter(|_| !gave_up && !open.live.has_begun()), outcome.end) {
                (Some(reason), relay::End::Refused { status }) => {
                    open.never_began(reason, &format_args!("the peer's agent answered {status}"));
                }
                (Some(reason), _) => open.never_began(reason, &reason.meaning()),
                (None, _) => open.close(reason),
            }
        }
        (None, Some((reason, detail))) => open.close_cut(*reason, detail),
        (None, None) => {}
    }
}

impl Live {
    fn cut(&self, reason: Reason, detail: String) {
        if self.cut.set((reason, detail)).is_ok() {
            self.wake.notify_one();
        }
    }
}

impl Open {
    /// What is known of it.
    pub fn about(&self) -> &About {
        &self.live.about
    }

    /// Ends it at once.
    pub fn cut(&self, reason: Reason, detail: String) {
        self.live.cut(reason, detail);
    }

    /// The peer was asked and did not take it.
    fn never_began(&self, reason: Reason, detail: &dyn std::fmt::Display) {
        self.live.is_over.store(true, Ordering::Relaxed);
        self.table.refuse(&self.live.about, reason, detail);
    }

    fn close_cut(&self, reason: Reason, detail: &str) {
        self.live.is_over.store(true, Ordering::Relaxed);
        self.live.count_opened();
        self.live.pair.closed(Some(reason));
        self.table.tell_cut(&self.live.about, reason, detail, &self.live.ended(Some(reason)));
    }

    /// It ended. `None`: cleanly.
    fn close(&self, reason: Option<Reason>) {
        self.live.is_over.store(true, Ordering::Relaxed);
        self.live.count_opened();
        self.live.pair.closed(reason);
        self.table.access.ended(&self.live.about, &self.live.ended(reason));
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
        if !self.live.is_over.load(Ordering::Relaxed) {
            // Nobody is left to carry it.
            self.live.count_opened();
            self.live.pair.closed(Some(Reason::Drained));
            self.table.access.ended(&self.live.about, &self.live.ended(Some(Reason::Drained)));
        }
        self.live.count_bytes();
        let Live { meter, pair, .. } = &*self.live;
        if let Some(round_trip) = meter.round_trip() {
            pair.round_trip(round_trip);
        }
        pair.retransmits.inc_by(meter.retransmits().into());
        pair.open.dec();
    }
}

impl Live {
    /// Whether it was admitted here, or answered by whom it leads to.
    fn has_begun(&self) -> bool {
        self.counted.opened.load(Ordering::Relaxed) || self.meter.answered().is_some()
    }

    fn count_opened(&self) {
        if !self.counted.opened.swap(true, Ordering::Relaxed) {
            self.pair.opened.inc();
        }
    }

    fn count_bytes(&self) {
        if self.meter.answered().is_some() {
            self.count_opened();
        }
        let moved = |total: u64, counted: &AtomicU64| {
            total.saturating_sub(counted.fetch_max(total, Ordering::Relaxed))
        };
        let (sent, received) = self.bytes();
        self.pair.sent.inc_by(moved(sent, &self.counted.sent));
        self.pair.received.inc_by(moved(received, &self.counted.received));
        // Who dials knows how long it took.
        if self.about.direction == Direction::Outbound
            && let Some(took) = self.meter.answered()
            && !self.counted.answered.swap(true, Ordering::Relaxed)
        {
            self.pair.connected_after(took);
        }
    }

    fn ended(&self, reason: Option<Reason>) -> Ended {
        let (bytes_sent, bytes_received) = self.bytes();
        let dialled_here = self.about.direction == Direction::Outbound;
        Ended {
            reason,
            bytes_sent,
            bytes_received,
            duration: Some(self.meter.began().elapsed()),
            transport: Transport {
                connect: self.meter.answered().filter(|_| dialled_here),
                rtt: self.meter.round_trip(),
                // Read together with the other.
                retransmits: self.meter.round_trip().map(|_| self.meter.retransmits().into()),
            },
            audited: self.audited,
        }
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
        let (sent, received) = self.bytes();
        row(self.id, &self.about, sent, received)
    }
}

/// What `meshctl connections` shows of a connection.
pub fn row(id: u64, about: &About, bytes_sent: u64, bytes_received: u64) -> ConnectionRow {
    let About { direction, path, security, source, destination, service } = about;
    {
        let namespace = |end: &End| end.workload.as_ref().map(|workload| workload.namespace.to_string());
        let name = |end: &End| end.workload.as_ref().map(|workload| workload.name.to_string());
        ConnectionRow {
            id,
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
