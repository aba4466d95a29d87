//! The tables of policies and Services: handles on the maps, for `lower` to write and for `explain` to read.

use std::sync::{Arc, Mutex};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData, MapError};
use aya::{Ebpf, Pod};
use mesh_common::{
    Addr, DestinationEntry, Endpoint16, EndpointKey, MemberKey, PairKey, PairVerdict, PortKey, PortVerdict,
    ServiceKey16, ServiceState, Verdict, maps,
};

use super::{KernelError, MapFailure, failed, ignore_missing, lock, take};
use crate::kernel::lower::Rows;

/// One map, shared by who writes and who reads it.
#[derive(Debug)]
pub struct Shared<K, V> {
    name: &'static str,
    map: Arc<Mutex<HashMap<MapData, K, V>>>,
}

impl<K: Pod, V: Pod> Shared<K, V> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, KernelError> {
        Ok(Self { name, map: Arc::new(Mutex::new(take(ebpf, name)?)) })
    }

    fn handle(&self) -> Self {
        Self { name: self.name, map: self.map.clone() }
    }

    fn get(&self, key: &K) -> Option<V> {
        lock(&self.map).get(key, 0).ok()
    }

    fn keys(&self) -> Vec<K> {
        lock(&self.map).keys().flatten().collect()
    }
}

impl<K: Pod + Send, V: Pod + Send> Rows<K, V> for Shared<K, V> {
    fn insert(&self, key: &K, value: V) -> Result<(), MapFailure> {
        lock(&self.map).insert(key, value, 0).map_err(failed(self.name, "write a row of"))
    }

    fn remove(&self, key: &K) -> Result<(), MapFailure> {
        ignore_missing(lock(&self.map).remove(key)).map_err(failed(self.name, "remove a row of"))
    }
}

/// Services, whose rows the hooks write, too: the turn is theirs.
struct Services(Shared<ServiceKey16, ServiceState>);

impl Rows<ServiceKey16, ServiceState> for Services {
    fn insert(&self, key: &ServiceKey16, value: ServiceState) -> Result<(), MapFailure> {
        // A new set begins where the old one was: who is always the first would have all the short-lived ones.
        let turn = self.0.get(key).map_or(0, |old| old.turn);
        self.0.insert(key, ServiceState { turn, ..value })
    }

    fn remove(&self, key: &ServiceKey16) -> Result<(), MapFailure> {
        self.0.remove(key)
    }
}

/// Ranges of ports.
#[derive(Debug)]
struct Ports(Arc<Mutex<LpmTrie<MapData, PortKey, PortVerdict>>>);

impl Rows<(u32, PortKey), PortVerdict> for Ports {
    fn insert(&self, key: &(u32, PortKey), value: PortVerdict) -> Result<(), MapFailure> {
        let (bits, data) = *key;
        lock(&self.0).insert(&Key::new(bits, data), value, 0).map_err(failed(maps::PORTS, "write a row of"))
    }

    fn remove(&self, key: &(u32, PortKey)) -> Result<(), MapFailure> {
        let (bits, data) = *key;
        let removed: Result<(), MapError> = lock(&self.0).remove(&Key::new(bits, data));
        ignore_missing(removed).map_err(failed(maps::PORTS, "remove a row of"))
    }
}

/// All of them.
#[derive(Debug)]
pub struct Tables {
    services: Shared<ServiceKey16, ServiceState>,
    endpoints: Shared<EndpointKey, Endpoint16>,
    members: Shared<MemberKey, u32>,
    destinations: Shared<Addr, DestinationEntry>,
    sources: Shared<u64, u32>,
    pairs: Shared<PairKey, PairVerdict>,
    ports: Ports,
}

/// The rows of every map, for the one who writes them.
pub struct Handles {
    /// Services.
    pub services: Box<dyn Rows<ServiceKey16, ServiceState>>,
    /// Sets of endpoints.
    pub endpoints: Box<dyn Rows<EndpointKey, Endpoint16>>,
    /// The same, by endpoint.
    pub members: Box<dyn Rows<MemberKey, u32>>,
    /// Addresses in the mesh.
    pub destinations: Box<dyn Rows<Addr, DestinationEntry>>,
    /// Pods of the node.
    pub sources: Box<dyn Rows<u64, u32>>,
    /// Who may talk to whom.
    pub pairs: Box<dyn Rows<PairKey, PairVerdict>>,
    /// At which ports.
    pub ports: Box<dyn Rows<(u32, PortKey), PortVerdict>>,
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            services: Shared::take(ebpf, maps::SERVICES)?,
            endpoints: Shared::take(ebpf, maps::ENDPOINTS)?,
            members: Shared::take(ebpf, maps::MEMBERS)?,
            destinations: Shared::take(ebpf, maps::DESTINATIONS)?,
            sources: Shared::take(ebpf, maps::SOURCES)?,
            pairs: Shared::take(ebpf, maps::PAIRS)?,
            ports: Ports(Arc::new(Mutex::new(take(ebpf, maps::PORTS)?))),
        })
    }

    /// For who writes them.
    pub fn handles(&self) -> Handles {
        Handles {
            services: Box::new(Services(self.services.handle())),
            endpoints: Box::new(self.endpoints.handle()),
            members: Box::new(self.members.handle()),
            destinations: Box::new(self.destinations.handle()),
            sources: Box::new(self.sources.handle()),
            pairs: Box::new(self.pairs.handle()),
            ports: Box::new(Ports(self.ports.0.clone())),
        }
    }

    /// What a predecessor wrote, to be taken away once what is wanted is there.
    pub fn left_behind(&self) -> LeftBehind {
        LeftBehind {
            services: self.services.keys(),
            endpoints: self.endpoints.keys(),
            members: self.members.keys(),
            destinations: self.destinations.keys(),
            sources: self.sources.keys(),
            pairs: self.pairs.keys(),
            ports: lock(&self.ports.0)
                .iter()
                .flatten()
                .map(|(key, _)| (key.prefix_len(), key.data()))
                .collect(),
        }
    }

    /// What the hooks would say of a connection from a namespace (`None`: without identity) to an address and port.
    /// `Verdict::ASK` where the tables do not settle it; `None`: the address is not in the mesh, as far as they know.
    pub fn verdict(&self, source: Option<u64>, address: Addr, port: u16) -> Option<u32> {
        let destination = self.destinations.get(&address)?;
        if destination.kind != DestinationEntry::TUNNEL {
            return Some(Verdict::ASK);
        }
        if destination.class == 0 {
            return Some(Verdict::ALLOW);
        }
        let source = match source {
            Some(cookie) => match self.sources.get(&cookie) {
                Some(source) => source,
                None => return Some(Verdict::ASK),
            },
            None => 0,
        };
        let pair = self.pairs.get(&PairKey { source, destination: destination.class });
        Some(match pair {
            None => Verdict::ASK,
            Some(pair) if pair.verdict == PairVerdict::BY_PORT => {
                let key = Key::new(PortKey::BITS, PortKey::new(pair.ports, port.into()));
                lock(&self.ports.0).get(&key, 0).map_or(Verdict::ASK, |at| at.verdict)
            }
            Some(pair) => pair.verdict,
        })
    }
}

/// Keys that were there before this agent.
#[derive(Clone, Debug, Default)]
pub struct LeftBehind {
    /// Services.
    pub services: Vec<ServiceKey16>,
    /// Sets of endpoints.
    pub endpoints: Vec<EndpointKey>,
    /// The same, by endpoint.
    pub members: Vec<MemberKey>,
    /// Addresses in the mesh.
    pub destinations: Vec<Addr>,
    /// Pods of the node.
    pub sources: Vec<u64>,
    /// Who may talk to whom.
    pub pairs: Vec<PairKey>,
    /// At which ports.
    pub ports: Vec<(u32, PortKey)>,
}
