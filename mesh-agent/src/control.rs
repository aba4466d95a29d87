//! What the controller says, applied: the world that the data path reads, the rows that the kernel reads, and the pods
//! of this node.
//!
//! ```text
//! Update ─▶ World (a new one, published whole) ─▶ service rows ─▶ this node's workloads ─▶ ack
//! ```
//!
//! An update is acknowledged after the data path has it: the controller tells a leaving pod's agent that its peers know
//! on the strength of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_common::{ServiceKey16, ServiceState, Settings};
use mesh_hbone::Pool;
use mesh_identity::Keyring;
use mesh_model::{Change, Reason, Uid, Workload, World};
use mesh_telemetry::readiness::Condition;
use mesh_xds::client::{Event, Update};
use tokio::sync::mpsc;

use crate::kernel::lower;
use crate::kernel::maps::Maps;
use crate::outbound::{Chain, PoolKey};
use crate::pods;

/// How long until rows that did not fit are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Applies what the controller says.
pub struct Control {
    /// This node's name.
    pub node: String,
    /// Published for the data path.
    pub world: Arc<ArcSwap<World>>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// What the kernel was told about the node; `world_complete` is set here.
    pub settings: Settings,
    /// This node's pods.
    pub pods: pods::Handle,
    /// Asked again when the controller is back.
    pub keyring: Keyring,
    /// Tunnels to peers that are gone are given up.
    pub pool: Pool<PoolKey>,
    /// Met once the world is complete.
    pub known: Condition,
    /// The service rows that the kernel has.
    pub rows: HashMap<ServiceKey16, ServiceState>,
    /// There are rows that the kernel has no room for.
    pub unwritten: bool,
}

impl Control {
    /// Follows the controller until the client is gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        loop {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = tokio::time::sleep(TRY_AGAIN), if self.unwritten => {
                    let world = self.world.load_full();
                    self.lower_services(&world);
                    continue;
                }
            };
            match event {
                Event::Connected => {
                    tracing::info!("connected to the controller");
                    self.keyring.nudge();
                }
                Event::Disconnected { error } => {
                    tracing::warn!(error, "no stream to the controller; the last known world stays in force");
                }
                Event::Update(update) => self.apply(update),
                Event::Released(uids) => self.pods.released(uids),
            }
        }
    }

    fn apply(&mut self, update: Update) {
        let Update { changes, complete, receipt } = update;
        let mut world = World::clone(&self.world.load());
        let touched: Vec<Uid> = changes.iter().filter_map(workload_of).cloned().collect();
        let services_touched =
            changes.iter().any(|c| matches!(c, Change::Service(_) | Change::ServiceRemoved(_)));
        for change in changes {
            world.apply(change);
        }
        let first = complete && !world.is_complete();
        if complete {
            world.set_complete();
        }
        let world = Arc::new(world);
        self.world.store(world.clone());
        if services_touched || first {
            self.lower_services(&world);
        }
        let own: Vec<Arc<Workload>> = touched
            .iter()
            .filter_map(|uid| world.workload(uid))
            .filter(|workload| *workload.node == *self.node)
            .cloned()
            .collect();
        if !own.is_empty() {
            self.pods.workloads(own);
        }
        let removed: Vec<Uid> = touched.iter().filter(|uid| world.workload(uid).is_none()).cloned().collect();
        if !removed.is_empty() {
            self.pods.removed(removed);
        }
        // Gone, out of the mesh, or no longer there: what runs lives on, nothing new begins.
        self.pool.evict(|key| {
            touched.contains(key.destination())
                && !world.workload(key.destination()).is_some_and(|peer| {
                    peer.tunnel.is_hbone() && peer.owned_addresses().contains(&key.address())
                })
        });
        if first {
            self.settings.world_complete = 1;
            if let Err(error) = self.maps.set_settings(self.settings) {
                tracing::error!(error = %Chain(&error), "captured pods stay refused");
                return receipt.nack(error.to_string());
            }
            self.pods.complete();
            self.known.met();
            tracing::info!("the world is complete");
        }
        receipt.ack();
    }

    /// A row that cannot be written costs an early refusal, never a leak: the agent decides without it.
    fn lower_services(&mut self, world: &World) {
        let mut rows = lower::services(world);
        for key in self.rows.keys().filter(|key| !rows.contains_key(key)) {
            if let Err(error) = self.maps.set_service(*key, None) {
                tracing::warn!(error = %Chain(&error), "a service's row stays");
            }
        }
        let mut failed = 0_usize;
        let mut why = None;
        rows.retain(|key, state| {
            let had = self.rows.get(key);
            if had == Some(state) {
                return true;
            }
            match self.maps.set_service(*key, Some(*state)) {
                Ok(()) => true,
                Err(error) => {
                    failed += 1;
                    why = Some(error);
                    // What the kernel has of it stays, to be replaced or removed later.
                    had.is_some_and(|had| {
                        *state = *had;
                        true
                    })
                }
            }
        });
        if let Some(error) = why
            && !self.unwritten
        {
            let reason = if error.is_full() { Reason::MapFull } else { Reason::CaptureFailed };
            tracing::warn!(
                reason = reason.as_str(), rows = failed, error = %Chain(&error),
                "services could not be recorded in the kernel; what it would refuse at connect the agent resets"
            );
        }
        if failed == 0 && self.unwritten {
            tracing::info!("all services are recorded in the kernel again");
        }
        self.unwritten = failed > 0;
        self.rows = rows;
    }
}

fn workload_of(change: &Change) -> Option<&Uid> {
    match change {
        Change::Workload(workload) => Some(&workload.uid),
        Change::WorkloadRemoved(uid) => Some(uid),
        Change::Service(_)
        | Change::ServiceRemoved(_)
        | Change::Mesh(_)
        | Change::MeshRemoved
        | Change::Node(_)
        | Change::NodeRemoved(_) => None,
    }
}
