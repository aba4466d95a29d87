//! Everything an agent was told, indexed for the questions that the data path asks.
//!
//! ```text
//! controller ── Change, Change, … ──▶ World::apply ──▶ by uid, by address, by service address
//! ```
//!
//! What a Service's clients may be sent to depends on where they are, so a world is seen from a node ([`World::stand_on`]).
//!
//! A `World` is a value: the agent clones it, applies a batch of changes and publishes the result in one step, so a
//! connection sees all of a batch or nothing. `complete` turns true with the first whole snapshot and never back:
//! before that nothing is "outside the mesh".

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::policy::{Policy, PolicyKey};
use crate::{Here, MeshSettings, NodeInfo, Served, Service, ServiceKey, Tunnel, Uid, Workload};

mod policies;
#[cfg(test)]
pub(crate) mod tests;

use policies::Policies;

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
    /// A policy is new or different.
    Policy(Policy),
    /// A policy is gone.
    PolicyRemoved(PolicyKey),
}

/// All workloads and services as of the last applied batch.
#[derive(Clone, Debug, Default)]
pub struct World {
    complete: bool,
    workloads: HashMap<Uid, Arc<Workload>>,
    by_address: HashMap<IpAddr, Claimants>,
    services: HashMap<ServiceKey, Arc<Served>>,
    /// Whose cluster address it is. Several Services claim one only by mistake: the first by name has it.
    by_service_address: Claims<IpAddr>,
    /// Whose external or load balancer's address and port it is; Services may share an address.
    by_outer_address: Claims<SocketAddr>,
    /// The node that the world is seen from.
    here: Arc<Here>,
    mesh: Option<Arc<MeshSettings>>,
    nodes: HashMap<Arc<str>, Arc<NodeInfo>>,
    policies: Arc<Policies>,
}

/// Who claims what, sorted by name: which of them has it is the same on all nodes, whatever the order in which they came.
type Claims<K> = HashMap<K, Vec<Arc<Served>>>;

/// Several pods may claim one address for a moment (reuse): then it is nobody's.
#[derive(Clone, Debug)]
enum Claimants {
    One(Arc<Workload>),
    Several(Vec<Arc<Workload>>),
}

impl Claimants {
    fn add(&mut self, new: Arc<Workload>) {
        match self {
            Self::One(first) => *self = Self::Several(vec![first.clone(), new]),
            Self::Several(all) => all.push(new),
        }
    }

    /// Whether nobody is left.
    fn remove(&mut self, uid: &Uid) -> bool {
        match self {
            Self::One(one) => one.uid == *uid,
            Self::Several(all) => {
                all.retain(|workload| workload.uid != *uid);
                if let [one] = all.as_slice() {
                    *self = Self::One(one.clone());
                    return false;
                }
                all.is_empty()
            }
        }
    }
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
                    match self.by_address.entry(*address) {
                        Entry::Occupied(mut claimed) => claimed.get_mut().add(new.clone()),
                        Entry::Vacant(free) => drop(free.insert(Claimants::One(new.clone()))),
                    }
                }
                self.workloads.insert(new.uid.clone(), new);
            }
            Change::WorkloadRemoved(uid) => {
                self.unindex(&uid);
                self.workloads.remove(&uid);
            }
            Change::Service(new) => {
                self.remove_service(&new.key);
                self.add_service(Arc::new(new));
            }
            Change::ServiceRemoved(key) => self.remove_service(&key),
            Change::Mesh(settings) => self.mesh = Some(Arc::new(settings)),
            Change::MeshRemoved => self.mesh = None,
            Change::Node(node) => {
                self.nodes.insert(node.name.clone(), Arc::new(node));
                self.look_around();
            }
            Change::NodeRemoved(name) => {
                self.nodes.remove(&name);
                self.look_around();
            }
            Change::Policy(_) | Change::PolicyRemoved(_) => self.apply_policy(change),
        }
    }

    /// From which node the world is seen: which endpoints are local, and which are for its zone.
    pub fn stand_on(&mut self, node: &str) {
        if *self.here.node != *node {
            self.here = Arc::new(Here { node: node.into(), zone: None });
            self.see_anew();
            self.look_around();
        }
    }

    /// The node's zone may be another.
    fn look_around(&mut self) {
        let zone = self.nodes.get(&self.here.node).and_then(|node| node.zone.clone());
        if self.here.zone != zone {
            self.here = Arc::new(Here { node: self.here.node.clone(), zone });
            self.see_anew();
        }
    }

    fn see_anew(&mut self) {
        let services: Vec<_> = self.services().cloned().collect();
        self.services.clear();
        self.by_service_address.clear();
        self.by_outer_address.clear();
        services.into_iter().for_each(|service| self.add_service(service));
    }

    fn unindex(&mut self, uid: &Uid) {
        let Some(old) = self.workloads.get(uid) else { return };
        for address in old.owned_addresses() {
            if self.by_address.get_mut(address).is_some_and(|claimants| claimants.remove(uid)) {
                self.by_address.remove(address);
            }
        }
    }

    fn add_service(&mut self, service: Arc<Service>) {
        let served = Arc::new(Served::new(service.clone(), self.here.clone()));
        for address in &service.addresses {
            claim(&mut self.by_service_address, *address, &served);
        }
        for address in outer_addresses(&service) {
            claim(&mut self.by_outer_address, address, &served);
        }
        self.services.insert(service.key.clone(), served);
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        for address in &old.service().addresses {
            disclaim(&mut self.by_service_address, address, key);
        }
        for address in outer_addresses(old.service()) {
            disclaim(&mut self.by_outer_address, &address, key);
        }
    }

    /// A workload by UID.
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The one workload that owns an address. Two claimants: the address is nobody's until one of them lets go.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        match self.by_address.get(&address)? {
            Claimants::One(one) => Some(one),
            Claimants::Several(_) => None,
        }
    }

    /// Whether more than one workload claims an address.
    pub fn is_contested(&self, address: IpAddr) -> bool {
        matches!(self.by_address.get(&address), Some(Claimants::Several(_)))
    }

    /// A Service by name.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Served>> {
        self.services.get(key)
    }

    /// The service behind a cluster address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Served> {
        self.by_service_address.get(&address)?.first().map(|served| &**served)
    }

    /// The service behind an external IP or a load balancer's address, at this port. What a workload claims is the
    /// workload's.
    pub fn outer_service_at(&self, address: SocketAddr) -> Option<&Served> {
        if self.by_address.contains_key(&address.ip()) {
            return None;
        }
        self.by_outer_address.get(&address)?.first().map(|served| &**served)
    }

    /// Whether any Service names the address as an external or load balancer's one, at whatever port and whoever owns it.
    pub fn is_outer_address(&self, address: IpAddr) -> bool {
        self.by_outer_address.keys().any(|outer| outer.ip() == address)
    }

    /// Whether an address and port is a Service's.
    pub fn is_service(&self, address: SocketAddr) -> bool {
        self.service_at(address.ip()).is_some() || self.outer_service_at(address).is_some()
    }

    /// Every cluster address, with the service that has it, in no order.
    pub fn service_addresses(&self) -> impl Iterator<Item = (IpAddr, &Served)> {
        self.by_service_address.keys().filter_map(|address| Some((*address, self.service_at(*address)?)))
    }

    /// Every external or load balancer's address and port that is a Service's, with that one, in no order.
    pub fn outer_addresses(&self) -> impl Iterator<Item = (SocketAddr, &Served)> {
        self.by_outer_address.keys().filter_map(|address| Some((*address, self.outer_service_at(*address)?)))
    }

    /// Every address that a workload claims, with that one; `None` where several do. In no order.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Option<&Arc<Workload>>)> {
        self.by_address.iter().map(|(address, claimants)| {
            let one = match claimants {
                Claimants::One(one) => Some(one),
                Claimants::Several(_) => None,
            };
            (*address, one)
        })
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
        self.services.values().map(|served| served.service())
    }
}

fn outer_addresses(service: &Service) -> impl Iterator<Item = SocketAddr> {
    let ports = |address: IpAddr| service.ports.iter().map(move |port| SocketAddr::new(address, *port));
    service.outer_addresses().flat_map(ports)
}

fn claim<K: Eq + Hash>(claims: &mut Claims<K>, what: K, served: &Arc<Served>) {
    let claimants = claims.entry(what).or_default();
    let key = &served.service().key;
    // An address may be both an external IP and the load balancer's.
    if let Err(place) = claimants.binary_search_by(|other| other.service().key.cmp(key)) {
        claimants.insert(place, served.clone());
    }
}

fn disclaim<K: Eq + Hash>(claims: &mut Claims<K>, what: &K, key: &ServiceKey) {
    if let Some(claimants) = claims.get_mut(what) {
        claimants.retain(|served| served.service().key != *key);
        if claimants.is_empty() {
            claims.remove(what);
        }
    }
}
