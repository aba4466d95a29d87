//! Tables in memory that a `Lowerer` writes, and the hooks' way of reading them (`mesh-ebpf`: `tables.rs`, `hooks/way.rs`).

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_common::{
    Addr, DestinationEntry, Endpoint16, EndpointKey, MemberKey, PairKey, PairVerdict, PortKey, PortVerdict,
    ServiceKey16, ServiceState, Verdict,
};
use mesh_model::{Reason, World};

use crate::kernel::MapFailure;
use crate::kernel::lower::{LocalPods, Lowerer, Rows, Step, Work};
use crate::kernel::maps::{Handles, LeftBehind, addr};

/// What is looked at after every single write.
pub type Watcher = Box<dyn FnMut(&Tables) + Send>;

/// The maps.
#[derive(Default)]
pub struct Tables {
    services: HashMap<ServiceKey16, ServiceState>,
    endpoints: HashMap<EndpointKey, Endpoint16>,
    members: HashMap<MemberKey, u32>,
    destinations: HashMap<Addr, DestinationEntry>,
    sources: HashMap<u64, u32>,
    pairs: HashMap<PairKey, PairVerdict>,
    ports: HashMap<(u32, PortKey), PortVerdict>,
    /// `Settings::SETTLED`.
    settled: bool,
    /// Rows written and removed.
    writes: usize,
    /// Entries that each may have.
    room: Option<usize>,
    watcher: Option<Watcher>,
}

/// What the hook makes of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is none.
    NoService,
    /// The agent's.
    Ask,
    /// One of these.
    Among(Vec<Endpoint16>),
    /// Refused.
    Refused(Reason),
}

/// What the hook makes of a connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The agent's.
    Agent,
    /// As it is, in plain text.
    Left(Endpoint16),
    /// As this verdict says: through the agent or directly, or not at all.
    Mesh(Endpoint16, u32),
    /// Refused.
    Refused(Reason),
}

impl Tables {
    /// What the hook may make of a connect: one for each endpoint that it may choose.
    pub fn ways(&self, source: u64, dialled: SocketAddr) -> Vec<Way> {
        let (targets, chosen) = match self.choice(dialled) {
            Choice::Ask => return vec![Way::Agent],
            Choice::Refused(reason) => return vec![Way::Refused(reason)],
            Choice::NoService => (vec![endpoint(dialled)], false),
            Choice::Among(targets) => (targets, true),
        };
        let way = |to: Endpoint16| {
            let address = IpAddr::from(to.addr.octets()).to_canonical();
            match self.verdict(Some(source), address, to.port as u16) {
                None if self.settled => Way::Left(to),
                Some(Verdict::ASK) if chosen => Way::Mesh(to, Verdict::ASK),
                None | Some(Verdict::ASK) => Way::Agent,
                Some(verdict) => Way::Mesh(to, verdict),
            }
        };
        targets.into_iter().map(way).collect()
    }

    /// What the hooks say of a connection; `None` for the source: it has no identity. `None`: not in the mesh.
    pub fn verdict(&self, source: Option<u64>, to: IpAddr, port: u16) -> Option<u32> {
        let destination = self.destinations.get(&addr(to))?;
        if destination.kind != DestinationEntry::TUNNEL {
            return Some(Verdict::ASK);
        }
        if destination.class == 0 {
            return Some(Verdict::ALLOW);
        }
        let source = match source.map(|cookie| self.sources.get(&cookie)) {
            None => 0,
            Some(Some(class)) => *class,
            Some(None) => return Some(Verdict::ASK),
        };
        Some(match self.pairs.get(&PairKey { source, destination: destination.class }) {
            None => Verdict::ASK,
            Some(pair) if pair.verdict == PairVerdict::BY_PORT => self.at_port(pair.ports, port),
            Some(pair) => pair.verdict,
        })
    }

    /// As a trie finds it: the longest prefix.
    fn at_port(&self, set: u32, port: u16) -> u32 {
        let found = (0..=16).rev().find_map(|bits: u32| {
            let first = u32::from(port) & !(0xffff_u32 >> bits);
            self.ports.get(&(32 + bits, PortKey::new(set, first)))
        });
        found.map_or(Verdict::ASK, |at| at.verdict)
    }

    pub fn choice(&self, to: SocketAddr) -> Choice {
        let key = |port: u16| ServiceKey16 { addr: addr(to.ip()), port: port.into() };
        let Some(state) = self.services.get(&key(to.port())) else {
            return match self.services.get(&key(0)).map(|own| own.no_endpoint) {
                Some(ServiceState::ASK_AT_ALL) => Choice::Ask,
                Some(_) => Choice::Refused(Reason::NoServicePort),
                None => Choice::NoService,
            };
        };
        match state.no_endpoint {
            0 if state.set == 0 || state.count == 0 => Choice::Ask,
            0 => {
                let endpoint = |index| self.endpoints.get(&EndpointKey { set: state.set, index }).copied();
                match (0..state.count).map(endpoint).collect() {
                    Some(all) => Choice::Among(all),
                    None => panic!("{to}: set {} has a hole: {state:?}", state.set),
                }
            }
            ServiceState::NONE_HERE => Choice::Refused(Reason::NoLocalEndpoint),
            _ => Choice::Refused(Reason::NoEndpoint),
        }
    }

    fn looked_at(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            watcher(self);
            self.watcher = Some(watcher);
        }
    }
}

/// One of the maps.
struct Part<K, V> {
    name: &'static str,
    all: Arc<Mutex<Tables>>,
    part: fn(&mut Tables) -> &mut HashMap<K, V>,
}

impl<K: Copy + Eq + Hash + Send, V: Send> Rows<K, V> for Part<K, V> {
    fn insert(&self, key: &K, value: V) -> Result<(), MapFailure> {
        let mut all = lock(&self.all);
        let room = all.room.unwrap_or(usize::MAX);
        let part = (self.part)(&mut all);
        if part.len() >= room && !part.contains_key(key) {
            return Err(MapFailure::full(self.name));
        }
        part.insert(*key, value);
        all.writes += 1;
        all.looked_at();
        Ok(())
    }

    fn remove(&self, key: &K) -> Result<(), MapFailure> {
        let mut all = lock(&self.all);
        (self.part)(&mut all).remove(key);
        all.writes += 1;
        all.looked_at();
        Ok(())
    }
}

fn lock(tables: &Mutex<Tables>) -> MutexGuard<'_, Tables> {
    tables.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kernel, and the agent's way to it.
pub struct Kernel {
    tables: Arc<Mutex<Tables>>,
    pub lowerer: Lowerer,
    /// Numbers below this one have been said to be used.
    reserved: Arc<Mutex<u32>>,
}

impl Kernel {
    pub fn new() -> Self {
        let tables = Arc::new(Mutex::new(Tables::default()));
        let reserved = Arc::new(Mutex::new(1));
        let lowerer = lowerer(&tables, &reserved);
        Self { tables, lowerer, reserved }
    }

    /// With the Services of a world.
    pub fn of(world: &World) -> Self {
        let mut kernel = Self::new();
        kernel.write(world, &LocalPods::new());
        kernel
    }

    /// Another agent, which knows nothing but the keys that are there.
    pub fn restart(&mut self) {
        self.lowerer = lowerer(&self.tables, &self.reserved);
    }

    pub fn write(&mut self, world: &World, local: &LocalPods) -> Work {
        self.step(&everything(world, local))
    }

    /// As `control` does it.
    pub fn step(&mut self, step: &Step<'_>) -> Work {
        let tables = self.tables.clone();
        let unsettle = || {
            let mut tables = lock(&tables);
            tables.settled = false;
            tables.looked_at();
            Ok(())
        };
        let work = self.lowerer.lower(step, unsettle).unwrap();
        let mut tables = self.tables();
        tables.settled = self.lowerer.is_settled();
        tables.looked_at();
        drop(tables);
        work
    }

    /// Rows written and removed since this was last asked.
    pub fn writes(&self) -> usize {
        std::mem::take(&mut self.tables().writes)
    }

    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    pub fn services(&self) -> HashMap<ServiceKey16, ServiceState> {
        self.tables().services.clone()
    }

    /// Rows, by map.
    pub fn rows(&self) -> [usize; 7] {
        let all = self.tables();
        [
            all.services.len(),
            all.endpoints.len(),
            all.members.len(),
            all.destinations.len(),
            all.sources.len(),
            all.pairs.len(),
            all.ports.len(),
        ]
    }

    pub fn set_room(&self, room: Option<usize>) {
        self.tables().room = room;
    }

    pub fn watch(&self, watcher: Option<Watcher>) {
        self.tables().watcher = watcher;
    }
}

/// As the tables have it.
pub fn endpoint(at: SocketAddr) -> Endpoint16 {
    Endpoint16 { addr: addr(at.ip()), port: at.port().into() }
}

/// A step to a world of which anything may be different.
pub fn everything<'a>(world: &'a World, pods: &'a LocalPods) -> Step<'a> {
    Step { world, pods, pods_whole: true, services: true, workloads: true, kept: false }
}

fn lowerer(tables: &Arc<Mutex<Tables>>, reserved: &Arc<Mutex<u32>>) -> Lowerer {
    fn part<K: Copy + Eq + Hash + Send + 'static, V: Send + 'static>(
        name: &'static str,
        tables: &Arc<Mutex<Tables>>,
        part: fn(&mut Tables) -> &mut HashMap<K, V>,
    ) -> Box<dyn Rows<K, V>> {
        Box::new(Part { name, all: tables.clone(), part })
    }
    let handles = Handles {
        services: part("services", tables, |all| &mut all.services),
        endpoints: part("endpoints", tables, |all| &mut all.endpoints),
        members: part("members", tables, |all| &mut all.members),
        destinations: part("destinations", tables, |all| &mut all.destinations),
        sources: part("sources", tables, |all| &mut all.sources),
        pairs: part("pairs", tables, |all| &mut all.pairs),
        ports: part("ports", tables, |all| &mut all.ports),
    };
    let all = lock(tables);
    let left_behind = LeftBehind {
        services: all.services.keys().copied().collect(),
        endpoints: all.endpoints.keys().copied().collect(),
        members: all.members.keys().copied().collect(),
        destinations: all.destinations.keys().copied().collect(),
        sources: all.sources.keys().copied().collect(),
        pairs: all.pairs.keys().copied().collect(),
        ports: all.ports.keys().copied().collect(),
    };
    drop(all);
    let next = *reserved.lock().unwrap_or_else(PoisonError::into_inner);
    let reserved = reserved.clone();
    let reserve = move |below| {
        *reserved.lock().unwrap_or_else(PoisonError::into_inner) = below;
        Ok(())
    };
    Lowerer::new(handles, left_behind, next, Box::new(reserve))
}
