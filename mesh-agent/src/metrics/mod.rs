//! The agent's metrics: every name and every label set, in one place.
//!
//! ```text
//! connections ─▶ Pair (counters of one source and destination, looked up once a connection)
//! kernel maps, keyring ─▶ read when Prometheus asks
//! ```
//!
//! Labels are bounded by the mesh's own nouns: no address, no port, no path.

mod collect;
mod earlier;
mod repairs;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use mesh_model::{Identity, Reason, ServiceKey, Workload};
use mesh_telemetry::api::{Direction, Security};
use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::connections::{About, End};

pub use collect::Observed;
pub use earlier::{EarlierOutcome, EarlierSockets};
pub use repairs::{Repaired, Repairs};

/// Both ends of a connection, and how it goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: &'static str,
    security: &'static str,
    source_namespace: String,
    source_workload: String,
    source_identity: String,
    destination_namespace: String,
    destination_workload: String,
    destination_identity: String,
    destination_service: String,
}

/// The same, with why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
    #[prometheus(flatten)]
    pair: Labels,
}

/// The same, with which way the bytes went: `sent` is from source to destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    flow: &'static str,
    #[prometheus(flatten)]
    pair: Labels,
}

/// How a TLS handshake came out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    role: &'static str,
    result: &'static str,
}

/// Who talks to whom, as cheap keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PairKey {
    direction: Direction,
    security: Security,
    source: Who,
    destination: Who,
    service: Option<ServiceKey>,
}

/// Replicas of one workload are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Who {
    workload: Option<(Arc<str>, Arc<str>)>,
    identity: Option<Identity>,
}

/// The counters of one pair.
#[derive(Debug)]
pub struct Pair {
    key: PairKey,
    metrics: Metrics,
    /// Connections begun.
    pub opened: Counter,
    /// Connections open.
    pub open: Gauge,
    /// Bytes from source to destination.
    pub sent: Counter,
    /// Bytes back.
    pub received: Counter,
    clean: Counter,
}

/// The agent's own metrics. Clones share.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    opened: Family<Labels, Counter>,
    closed: Family<ReasonLabels, Counter>,
    failed: Family<ReasonLabels, Counter>,
    open: Family<Labels, Gauge>,
    bytes: Family<FlowLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    /// Held for a look-up or an insert. One entry a pair of workloads, never removed: as many as the families have.
    pairs: Arc<Mutex<HashMap<PairKey, Arc<Pair>>>>,
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("connections_opened", "Connections that began", metrics.opened.clone());
        registry.register(
            "connections_closed",
            "Connections that ended, by how; a clean end has the reason clean",
            metrics.closed.clone(),
        );
        registry.register(
            "connections_failed",
            "Connections that were refused or never reached their destination, by why",
            metrics.failed.clone(),
        );
        registry.register("open_connections", "Connections that are open", metrics.open.clone());
        registry.register(
            "bytes",
            "Bytes of applications: flow sent is from source to destination, received the way back",
            metrics.bytes.clone(),
        );
        registry.register(
            "tls_handshakes",
            "Mutual TLS handshakes between agents, by this agent's role and how they came out",
            metrics.handshakes.clone(),
        );
        metrics
    }

    /// The counters for a connection.
    pub fn pair(&self, about: &About) -> Arc<Pair> {
        let key = PairKey::of(about);
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = pairs.get(&key) {
            return pair.clone();
        }
        let labels = key.labels();
        // Owned, because a family's guard held over the next look-up in the same family would wait for itself.
        let pair = Arc::new(Pair {
            opened: self.opened.get_or_create_owned(&labels),
            open: self.open.get_or_create_owned(&labels),
            sent: self.bytes.get_or_create_owned(&key.flow("sent")),
            received: self.bytes.get_or_create_owned(&key.flow("received")),
            clean: self.closed.get_or_create_owned(&key.reason("clean")),
            metrics: self.clone(),
            key: key.clone(),
        });
        pairs.insert(key, pair.clone());
        pair
    }

    /// Counts a connection that never began.
    pub fn failed(&self, key: PairKey, reason: Reason) {
        self.failed.get_or_create(&key.reason(reason.as_str())).inc();
    }

    /// Counts a handshake: `role` is `client` or `server`, `result` is `ok` or a reason.
    pub fn handshake(&self, role: &'static str, result: &'static str) {
        self.handshakes.get_or_create(&HandshakeLabels { role, result }).inc();
    }
}

impl Pair {
    /// Counts an end. `None`: a clean one.
    pub fn closed(&self, reason: Option<Reason>) {
        match reason {
            None => self.clean.inc(),
            Some(reason) => self.metrics.closed.get_or_create(&self.key.reason(reason.as_str())).inc(),
        };
    }
}

impl Who {
    fn of(end: &End) -> Self {
        let name = |workload: &Arc<Workload>| (workload.namespace.clone(), workload.owner.clone());
        Self { workload: end.workload.as_ref().map(name), identity: end.identity.clone() }
    }

    fn namespace(&self) -> String {
        self.workload.as_ref().map_or_else(|| "unknown".into(), |(namespace, _)| namespace.to_string())
    }

    fn workload(&self) -> String {
        self.workload.as_ref().map_or_else(|| "unknown".into(), |(_, owner)| owner.to_string())
    }

    fn identity(&self) -> String {
        self.identity.as_ref().map_or_else(|| "unknown".into(), Identity::to_string)
    }
}

impl PairKey {
    /// Of a connection.
    pub fn of(about: &About) -> Self {
        Self {
            direction: about.direction,
            security: about.security,
            source: Who::of(&about.source),
            destination: Who::of(&about.destination),
            service: about.service.clone(),
        }
    }

    fn labels(&self) -> Labels {
        Labels {
            direction: self.direction.as_str(),
            security: self.security.as_str(),
            source_namespace: self.source.namespace(),
            source_workload: self.source.workload(),
            source_identity: self.source.identity(),
            destination_namespace: self.destination.namespace(),
            destination_workload: self.destination.workload(),
            destination_identity: self.destination.identity(),
            destination_service: self.service.as_ref().map_or_else(String::new, |s| s.name.to_string()),
        }
    }

    fn reason(&self, reason: &'static str) -> ReasonLabels {
        ReasonLabels { reason, pair: self.labels() }
    }

    fn flow(&self, flow: &'static str) -> FlowLabels {
        FlowLabels { flow, pair: self.labels() }
    }
}
