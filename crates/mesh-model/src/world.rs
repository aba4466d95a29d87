//! Everything an agent was told, indexed for the questions that the data path asks.
//!
//! ```text
//! controller ── Change, Change, … ──▶ World::apply ──▶ by uid, by address, by service address
//! ```
//!
//! A `World` is a value: the agent clones it, applies a batch of changes and publishes the result in one step, so a
//! connection sees all of a batch or nothing. `complete` turns true with the first whole snapshot and never back:
//! before that nothing is "outside the mesh".

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::{MeshSettings, NodeInfo, Service, ServiceKey, Tunnel, Uid, Workload};

#[cfg(test)]
pub(crate) mod tests;

/// One step from one world to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A workload is new or different.
    Workload(Workload),
    /// A workload is gone.
    WorkloadRemoved(Uid),
    /// A service is new or different.
    Service(Service),
    /// A service is gone.
    ServiceRemoved(ServiceKey),
    /// The mesh's settings are new or different.
    Mesh(MeshSettings),
    /// Nothing is set any more.
    MeshRemoved,
    /// What is said of a node (an agent hears of its own alone) is new or different.
    Node(NodeInfo),
    /// A node is gone.
    NodeRemoved(Arc<str>),
}

/// All workloads and services as of the last applied batch.
#[derive(Clone, Debug, Default)]
pub struct World {
    complete: bool,
    workloads: HashMap<Uid, Arc<Workload>>,
    /// Several pods may claim one address for a moment (reuse): then it is nobody's.
    by_address: HashMap<IpAddr, Vec<Arc<Workload>>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    by_service_address: HashMap<IpAddr, Arc<Service>>,
    mesh: Option<Arc<MeshSettings>>,
    nodes: HashMap<Arc<str>, Arc<NodeInfo>>,
}

impl World {
    /// Whether a whole snapshot has been applied.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Marks the world whole.
    pub fn set_complete(&mut self) {
        self.complete = true;
    }

    /// Applies one change. What a peer's agent once reported captured stays so, unless it is withdrawn by word or the
    /// operator no longer wants it: a controller that lost its memory must not turn tunnels into plaintext.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Workload(mut new) => {
                if let Some(old) = self.workloads.get(&new.uid) {
                    if old.tunnel == Tunnel::Hbone && new.tunnel == Tunnel::None && new.enrolled {
                        new.tunnel = Tunnel::Hbone;
                    }
                    self.unindex(&new.uid);
                }
                let new = Arc::new(new);
                for address in new.owned_addresses() {
                    self.by_address.entry(*address).or_default().push(new.clone());
                }
                self.workloads.insert(new.uid.clone(), new);
            }
            Change::WorkloadRemoved(uid) => {
                self.unindex(&uid);
                self.workloads.remove(&uid);
            }
            Change::Service(new) => {
                self.remove_service(&new.key);
                let new = Arc::new(new);
                for address in &new.addresses {
                    self.by_service_address.insert(*address, new.clone());
                }
                self.services.insert(new.key.clone(), new);
            }
            Change::ServiceRemoved(key) => self.remove_service(&key),
            Change::Mesh(settings) => self.mesh = Some(Arc::new(settings)),
            Change::MeshRemoved => self.mesh = None,
            Change::Node(node) => drop(self.nodes.insert(node.name.clone(), Arc::new(node))),
            Change::NodeRemoved(name) => drop(self.nodes.remove(&name)),
        }
    }

    fn unindex(&mut self, uid: &Uid) {
        let Some(old) = self.workloads.get(uid) else { return };
        for address in old.owned_addresses() {
            if let Some(claimants) = self.by_address.get_mut(address) {
                claimants.retain(|workload| workload.uid != *uid);
                if claimants.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        for address in &old.addresses {
            if self.by_service_address.get(address).is_some_and(|service| service.key == *key) {
                self.by_service_address.remove(address);
            }
        }
    }

    /// A workload by UID.
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The one workload that owns an address. Two claimants: the address is nobody's until one of them lets go.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.by_address.get(&address)?.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Whether more than one workload claims an address.
    pub fn is_contested(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|claimants| claimants.len() > 1)
    }

    /// The service behind a service address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_service_address.get(&address)
    }

    /// What the operator set, if anything.
    pub fn mesh(&self) -> Option<&Arc<MeshSettings>> {
        self.mesh.as_ref()
    }

    /// What was said of a node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(name)
    }

    /// All nodes that were spoken of, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.nodes.values()
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}
