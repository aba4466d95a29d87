//! What the controller writes to the Kubernetes API, and what its replicas say to each other there.
//!
//! ```text
//! watches ─▶ Board ─┬─▶ leases       who is alive, who is the leader, which withdrawals everybody's agents know
//!                   ├─▶ nodes        NodeState ◀─▶ the hub's captures
//!                   ├─▶ policies     NetworkPolicies that cut tunnels
//!                   ├─▶ authorization  conditions of AuthorizationPolicies (leader)
//!                   ├─▶ mesh_config  condition Accepted (leader), certificate lifetime, log format
//! hub ──────────────┴─▶ events       Events on pods, nodes and objects
//! ```
//!
//! Invariants: nothing here is waited for by the path from facts to agents; every write is tried again, and says once what
//! is in the way; a write that would undo another replica's newer one is refused by the API server (resource versions).
//! Weft writes nothing on Pods, Services, Nodes or Namespaces. Not here: what the world is.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use mesh_telemetry::logs::Format;
use mesh_telemetry::readiness::Condition;
use mesh_telemetry::shutdown::Shutdown;
use tokio::sync::watch;

use crate::issue::Issuer;
use crate::metrics::Metrics;
use crate::publish::Hub;

pub mod authorization;
mod board;
mod events;
mod leases;
pub mod mesh_config;
mod nodes;
pub mod policies;
mod said;
mod strict;
pub mod uninstall;

#[cfg(test)]
mod tests;

pub use board::{Board, Standing, Words};

/// Who writes: in managed fields and Events.
const MANAGER: &str = "weft-controller";

/// What the reconcilers share.
#[derive(Clone)]
pub struct Reconcile {
    /// The cluster.
    pub client: Client,
    /// What agents are told and say.
    pub hub: Arc<Hub>,
    /// What the watches saw.
    pub board: Arc<Board>,
    /// What is counted.
    pub metrics: Metrics,
    /// Weft's own namespace.
    pub namespace: String,
    /// This replica's name.
    pub replica: String,
    /// Whose lifetime of certificates the MeshConfig sets.
    pub issuer: Issuer,
    /// The lifetime where the MeshConfig sets none.
    pub lifetime: Duration,
    /// How log lines are written where the MeshConfig does not say.
    pub log_format: Format,
    /// Stops everything.
    pub shutdown: Shutdown,
}

/// Says when the other replicas can know of this one.
#[derive(Debug)]
pub struct Registered {
    done: watch::Receiver<bool>,
}

impl Registered {
    /// Waits for it.
    pub async fn wait(mut self, condition: &Condition) {
        if self.done.wait_for(|done| *done).await.is_ok() {
            condition.met();
        }
    }
}

impl Reconcile {
    /// Starts everything. Needs a tokio runtime.
    pub fn spawn(self) -> Registered {
        let (registered, done) = watch::channel(false);
        let (leader, leads) = watch::channel(false);
        tokio::spawn(leases::keep(self.clone(), leader, registered));
        tokio::spawn(nodes::keep(self.clone(), leads.clone()));
        tokio::spawn(mesh_config::keep(self.clone(), leads.clone()));
        tokio::spawn(authorization::keep(self.clone(), leads.clone()));
        tokio::spawn(policies::keep(self.hub.clone(), Some(self.board.clone()), self.shutdown.clone()));
        tokio::spawn(events::keep(self, leads));
        Registered { done }
    }
}
