//! The Kubernetes API: a list and a watch of each kind, from which facts are made.
//!
//! ```text
//! one task a kind:  list in pages ─▶ watch ─▶ watch … ─┐ Seen (trimmed) ─▶ Known: what is new, what is gone
//!        ▲                                   │         │                          │ Step
//!        └── 410, refusals, restarts ◀───────┘         └─────────────▶ gather ◀───┘
//!                                                                        │ Batch, once all first lists are whole
//!                                                                        ▼
//!                                                                       Hub
//! ```
//!
//! Invariants: nothing is published before the first list of every kind is whole; what a later list does not name is gone,
//! and nothing is gone meanwhile; a malformed object is one problem and its last good state stays; objects are dropped as
//! soon as their facts are made. Not here: what the facts mean, and what is written to the API (`reconcile`).

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use mesh_crd::{AuthorizationPolicy, MeshConfig, NodeState};
use mesh_telemetry::readiness::Condition;
use mesh_telemetry::shutdown::Shutdown;
use tokio::sync::{mpsc, watch};

use crate::index::facts::Reading;
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::reconcile::Board;

mod follow;
mod gather;
mod kinds;
mod known;
mod seen;

#[cfg(test)]
mod tests;

use follow::Follower;
pub use gather::ObjectName;
use gather::{Gather, Step};
use kinds::{Kind, Watched};
pub(crate) use seen::Seen;

/// Steps that may wait for the hub.
const STEPS: usize = 1_024;

/// What is watched, and for whom.
#[derive(Clone, Debug)]
pub struct WatchConfig {
    /// What objects are read against.
    pub reading: Reading,
    /// Weft's own namespace: its Leases are the replicas'.
    pub namespace: String,
}

/// Says when the first world is published.
#[derive(Debug)]
pub struct First {
    /// The kinds that are still missing; `None` once it is published.
    missing: watch::Receiver<Option<Vec<&'static str>>>,
}

impl First {
    /// Waits for it, and says meanwhile what is missing.
    pub async fn published(mut self, condition: &Condition) {
        loop {
            let Some(missing) = self.missing.borrow_and_update().clone() else {
                return condition.met();
            };
            condition.lost(format!("the first list of {}", missing.join(", ")));
            if self.missing.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Watches everything until shutdown, and has the hub publish it.
pub fn follow(
    client: Client,
    config: WatchConfig,
    hub: Arc<Hub>,
    board: Arc<Board>,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> First {
    let (steps, receiver) = mpsc::channel(STEPS);
    let mut watches = Watches { client, config, steps, board, metrics, kinds: Vec::new(), shutdown };
    watches.all::<Namespace>();
    watches.all::<Pod>();
    watches.all::<Service>();
    watches.all::<EndpointSlice>();
    watches.all::<Node>();
    watches.all::<ServiceAccount>();
    watches.all::<RuntimeClass>();
    watches.all::<NetworkPolicy>();
    watches.all::<AuthorizationPolicy>();
    watches.all::<MeshConfig>();
    watches.all::<NodeState>();
    watches.own::<Lease>();
    let (gather, missing) = Gather::new(watches.kinds, hub, watches.board, watches.metrics);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = gather.run(receiver) => {}
            () = stop.wait() => {}
        }
    });
    First { missing }
}

struct Watches<'a> {
    client: Client,
    config: WatchConfig,
    steps: mpsc::Sender<Step>,
    board: Arc<Board>,
    metrics: Metrics,
    kinds: Vec<&'static str>,
    shutdown: &'a Shutdown,
}

impl Watches<'_> {
    /// A kind in the whole cluster.
    fn all<K: Watched>(&mut self) {
        let kind = Kind::of::<K>();
        let api = Api::all_with(self.client.clone(), &kind.resource);
        self.spawn(kind, api);
    }

    /// A kind in Weft's own namespace.
    fn own<K: Watched>(&mut self) {
        let kind = Kind::of::<K>();
        let api = Api::namespaced_with(self.client.clone(), &self.config.namespace, &kind.resource);
        self.spawn(kind, api);
    }

    fn spawn(&mut self, kind: Kind, api: Api<Seen>) {
        self.kinds.push(kind.name);
        let follower = Follower::new(
            kind,
            api,
            self.config.reading.clone(),
            self.board.clone(),
            self.steps.clone(),
            self.metrics.clone(),
        );
        let stop = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run() => {}
                () = stop.wait() => {}
            }
        });
    }
}
