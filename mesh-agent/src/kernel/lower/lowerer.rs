//! What was lowered so far, and the steps from there to a new world.
//!
//! ```text
//! new pairs ─▶ destinations, sources ─▶ not settled, where one of them is lacking
//!           ─▶ new sets ─▶ Services ─▶ old sets ─▶ old destinations and sources ─▶ old pairs
//! ```
//!
//! Invariants: a row that leads somewhere is written after what it leads to and removed before, so no connection sees half a
//! policy or half a Service, and no Service leads to a captured pod that has no row: that one would be dialled in plain text.
//! Numbers are never used twice. What could not be written is tried again and meanwhile the agent's to decide. Of a
//! predecessor's rows those stay for which nothing else can be said yet.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use mesh_common::{
    Addr, DestinationEntry, Endpoint16, EndpointKey, MemberKey, ServiceKey16, ServiceState, maps,
};
use mesh_model::{Identity, Uid, World};

use super::memory::Memory;
use super::numbers::{Classes, Numbers, Reserve};
use super::pairs::Pairs;
use super::policies::{DestinationClass, SourceClass, Work};
use super::services::{self, Wanted};
use super::table::Table;
use crate::kernel::MapFailure;
use crate::kernel::maps::{Handles, LeftBehind, addr};

/// A captured pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Which.
    pub uid: Uid,
    /// As it was taken in.
    pub identity: Identity,
    /// Its own.
    pub addresses: Vec<IpAddr>,
}

/// The captured pods of this node, by the cookies of their namespaces.
pub type LocalPods = HashMap<u64, LocalPod>;

/// What is to be lowered, and what of it may be different from the last time. That policies or pods are different is noticed.
pub struct Step<'a> {
    /// All that is known.
    pub world: &'a World,
    /// This node's captured pods.
    pub pods: &'a LocalPods,
    /// Those are all of them: what is left of others is nobody's.
    pub pods_whole: bool,
    /// Services, or workloads and nodes by which they are judged, may be different.
    pub services: bool,
    /// Workloads may be different.
    pub workloads: bool,
    /// The world is no newer than what the predecessor lowered last.
    pub kept: bool,
}

/// Endpoints, and whether they are to be recognised.
type Set = (Vec<Endpoint16>, bool);

/// A set that was begun.
#[derive(Clone, Copy)]
struct Begun {
    number: u32,
    /// All of it is written.
    whole: bool,
}

/// Lowers a world, and what differs in the next.
pub struct Lowerer {
    services: Table<ServiceKey16, ServiceState>,
    endpoints: Table<EndpointKey, Endpoint16>,
    members: Table<MemberKey, u32>,
    destinations: Table<Addr, DestinationEntry>,
    sources: Table<u64, u32>,
    pairs: Pairs,
    numbers: Numbers,
    sets: HashMap<Set, Begun>,
    memory: Memory,
    destination_classes: Classes<DestinationClass>,
    source_classes: Classes<SourceClass>,
    /// There are rows of classes that nobody is of.
    stale: bool,
    /// As of the last step; `None` before the first.
    pods: Option<LocalPods>,
    pods_whole: bool,
    /// Destinations whose rows are a predecessor's and stay so until all pods are known, or until they are to say something
    /// else than this.
    spared: HashMap<Addr, DestinationEntry>,
}

impl Lowerer {
    /// `next`: the first number that nobody has used; `reserve` says that those below its argument are used.
    pub fn new(maps: Handles, left_behind: LeftBehind, next: u32, reserve: Reserve) -> Self {
        let pairs = Table::new(maps.pairs, left_behind.pairs);
        let ports = Table::new(maps.ports, left_behind.ports);
        Self {
            services: Table::new(maps.services, left_behind.services),
            endpoints: Table::new(maps.endpoints, left_behind.endpoints),
            members: Table::new(maps.members, left_behind.members),
            destinations: Table::new(maps.destinations, left_behind.destinations),
            sources: Table::new(maps.sources, left_behind.sources),
            pairs: Pairs::new(pairs, ports),
            numbers: Numbers::new(next, reserve),
            sets: HashMap::new(),
            memory: Memory::default(),
            destination_classes: Classes::default(),
            source_classes: Classes::default(),
            stale: false,
            pods: None,
            pods_whole: false,
            spared: HashMap::new(),
        }
    }

    /// Whether every destination and Service is written: what has no row is outside the mesh.
    pub fn is_settled(&self) -> bool {
        self.services.is_whole() && self.destinations.is_whole()
    }

    /// Whether all that is wanted is written.
    fn is_whole(&self) -> bool {
        self.is_settled()
            && self.endpoints.is_whole()
            && self.members.is_whole()
            && self.sources.is_whole()
            && self.pairs.is_whole()
            && self.numbers.is_whole()
    }

    /// Rows that are not there, by map; and why, once.
    pub fn lacking(&mut self) -> Vec<(&'static str, usize, Option<MapFailure>)> {
        let mut all = vec![
            (maps::SERVICES, self.services.lacking()),
            (maps::ENDPOINTS, self.endpoints.lacking()),
            (maps::MEMBERS, self.members.lacking()),
            (maps::DESTINATIONS, self.destinations.lacking()),
            (maps::SOURCES, self.sources.lacking()),
            (maps::SETTINGS, self.numbers.lacking()),
        ];
        all.extend(self.pairs.lacking());
        all.into_iter().map(|(map, (rows, failure))| (map, rows, failure)).collect()
    }

    /// Brings all tables up to date. `unsettle` has the hooks ask the agent of what has no row; if it fails, Services stay as
    /// they are. Whether they may settle that again is for [`Self::is_settled`] to say afterwards.
    pub fn lower(
        &mut self,
        step: &Step<'_>,
        unsettle: impl FnOnce() -> Result<(), MapFailure>,
    ) -> Result<Work, MapFailure> {
        let mut work = Work::default();
        // What is lacking may have room now.
        let again = !self.is_whole() || self.pods.is_none();
        self.numbers.ask_again();
        let pods_differ = self.pods.as_ref() != Some(step.pods) || self.pods_whole != step.pods_whole;
        let workloads_differ =
            step.workloads || again || self.pods_whole != step.pods_whole || !self.memory.is_of(step.world);
        let destinations = workloads_differ.then(|| self.wanted_destinations(step, &mut work));
        let sources = (workloads_differ || pods_differ).then(|| self.wanted_sources(step));
        self.drop_classes(destinations.as_deref(), sources.as_ref());
        let Self { pairs, destination_classes, source_classes, numbers, .. } = self;
        pairs.write(destination_classes, source_classes, numbers, &mut work);
        // Everything that they lead to is there.
        if let Some(wanted) = &destinations {
            self.destinations.begin();
            for (address, entry) in wanted {
                if !self.spared.contains_key(address) {
                    self.destinations.put(*address, *entry);
                }
            }
        }
        for (cookie, class) in sources.iter().flatten() {
            self.sources.put(*cookie, *class);
        }
        if !self.destinations.is_whole() {
            unsettle()?;
        }
        if step.services || again {
            self.write_services(step.world);
        }
        // No Service leads to them any more.
        self.forget(step, destinations.map(|wanted| wanted.len()), sources);
        if pods_differ {
            self.pods = Some(step.pods.clone());
            self.pods_whole = step.pods_whole;
        }
        Ok(work)
    }

    /// Each address once.
    fn wanted_destinations(&mut self, step: &Step<'_>, work: &mut Work) -> Vec<(Addr, DestinationEntry)> {
        let world = step.world;
        self.memory.turn_to(world);
        let mut wanted = Vec::with_capacity(self.destinations.len());
        for (address, workload) in world.addresses() {
            let class = match workload {
                None => None,
                Some(workload) if !workload.tunnel.is_hbone() => continue,
                Some(workload) => self.memory.class(
                    world,
                    workload,
                    address.is_ipv6(),
                    &mut self.destination_classes,
                    &mut self.numbers,
                    work,
                ),
            };
            let entry = match class {
                Some(class) => DestinationEntry { kind: DestinationEntry::TUNNEL, class },
                None => DestinationEntry { kind: DestinationEntry::ASK, class: 0 },
            };
            wanted.push((addr(address), entry));
        }
        self.spare(step, &wanted);
        wanted
    }

    /// Says which rows of a predecessor's stay: between numbers of its and numbers of this one nothing is known, so connections
    /// of pods that are not looked at yet would be the agent's, which does not serve those pods yet either.
    fn spare(&mut self, step: &Step<'_>, wanted: &[(Addr, DestinationEntry)]) {
        if step.pods_whole {
            self.spared = HashMap::new();
            return;
        }
        let begins = step.kept && self.pods.is_none();
        let is_spared = |(address, entry): &&(Addr, DestinationEntry)| match begins {
            true => entry.kind == DestinationEntry::TUNNEL && self.destinations.is_strange(address),
            false => self.spared.get(address) == Some(entry),
        };
        self.spared = wanted.iter().filter(is_spared).copied().collect();
    }

    fn wanted_sources(&mut self, step: &Step<'_>) -> HashMap<u64, u32> {
        let by_address = self.memory.asks_for_address();
        let mut wanted = HashMap::new();
        for (cookie, pod) in step.pods {
            let workload = step.world.workload(&pod.uid);
            let identity = workload.map_or(&pod.identity, |workload| &workload.identity);
            let class = SourceClass::of(identity, &pod.addresses, by_address);
            if let Some(number) = self.source_classes.number(class, &mut self.numbers) {
                wanted.insert(*cookie, number);
            }
        }
        wanted
    }

    /// Classes that nobody is of any more are judged no more: between what comes and what goes the agent decides.
    fn drop_classes(
        &mut self,
        destinations: Option<&[(Addr, DestinationEntry)]>,
        sources: Option<&HashMap<u64, u32>>,
    ) {
        if let Some(wanted) = destinations {
            let mut used = HashSet::new();
            // Neighbours are often of one class.
            let mut last = None;
            for (_, entry) in wanted {
                if last.replace(entry.class) != Some(entry.class) {
                    used.insert(entry.class);
                }
            }
            if self.destination_classes.retain(&used) {
                self.memory.forget_classes(&used);
                self.stale = true;
            }
        }
        if let Some(wanted) = sources {
            self.stale |= self.source_classes.retain(&wanted.values().copied().collect());
        }
    }

    /// Removes what is not wanted any more. What was not looked at is wanted as before.
    fn forget(&mut self, step: &Step<'_>, destinations: Option<usize>, sources: Option<HashMap<u64, u32>>) {
        if let Some(count) = destinations {
            self.destinations.end(|address| self.spared.contains_key(address));
            self.memory.forget_workloads(step.world, count);
        }
        if let Some(wanted) = sources {
            let is_wanted = |cookie: &u64| wanted.contains_key(cookie);
            if step.pods_whole {
                self.sources.retain(is_wanted);
            } else {
                self.sources.retain_own(is_wanted);
            }
        }
        if self.stale || step.pods_whole && self.pairs.has_strange() {
            self.pairs.retain(&self.destination_classes, &self.source_classes, step.pods_whole);
            self.stale = false;
        }
    }

    fn write_services(&mut self, world: &World) {
        let wanted = services::rows(world);
        let mut sets = HashMap::new();
        let mut states = Vec::with_capacity(wanted.len());
        for (key, wanted) in &wanted {
            let state = match wanted {
                Wanted::Plain(code) => ServiceState::refusing(*code),
                Wanted::Ask => ServiceState::ASK,
                Wanted::Choose { endpoints, affinity_seconds } => {
                    let set = (endpoints.clone(), *affinity_seconds != 0);
                    match self.set(set, &mut sets) {
                        Some(number) => ServiceState {
                            no_endpoint: 0,
                            set: number,
                            count: u32::try_from(endpoints.len()).unwrap_or(u32::MAX),
                            affinity_seconds: *affinity_seconds,
                            turn: 0,
                        },
                        None => ServiceState::ASK,
                    }
                }
            };
            states.push((*key, state));
        }
        // An address's own row refuses at ports that have none: it comes after theirs, and goes before.
        let is_own = |key: &ServiceKey16| key.port == 0;
        states.sort_unstable_by_key(|(key, _)| is_own(key));
        let mut short = HashSet::new();
        for (key, state) in states {
            // Nor may it refuse at a port whose row has no room.
            let asks = is_own(&key) && short.contains(&key.addr);
            let state = if asks { ServiceState::refusing(ServiceState::ASK_AT_ALL) } else { state };
            if !self.services.put(key, state) {
                short.insert(key.addr);
            }
        }
        self.services.retain(|key| !is_own(key) || wanted.contains_key(key));
        self.services.retain(|key| wanted.contains_key(key));
        let used: HashSet<u32> = sets.values().map(|begun| begun.number).collect();
        self.sets = sets;
        self.endpoints.retain(|key| used.contains(&key.set));
        self.members.retain(|key| used.contains(&key.set));
    }

    /// A set's number, once all of it is written. One that was begun is kept among `sets`, to be gone on with.
    fn set(&mut self, set: Set, sets: &mut HashMap<Set, Begun>) -> Option<u32> {
        let begun = match sets.get(&set).or_else(|| self.sets.get(&set)) {
            Some(begun) => *begun,
            None => Begun { number: self.numbers.take()?, whole: false },
        };
        let whole = begun.whole || self.write_set(begun.number, &set);
        sets.insert(set, Begun { whole, ..begun });
        whole.then_some(begun.number)
    }

    /// Whether all of it is there. Where one row has no room, the next has none.
    fn write_set(&mut self, number: u32, (endpoints, kept): &Set) -> bool {
        (0..).zip(endpoints).all(|(index, endpoint)| {
            let member = MemberKey { addr: endpoint.addr, port: endpoint.port, set: number };
            self.endpoints.put(EndpointKey { set: number, index }, *endpoint)
                && (!*kept || self.members.put(member, 1))
        })
    }
}
