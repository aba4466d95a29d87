//! Connections that no agent carries: which there are, what they amount to, and what was refused without an agent.

use std::net::SocketAddr;
use std::sync::Mutex;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues, RingBuf};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use mesh_common::{DirectEntry, DirectKey, Durations, EndedEvent, FlowCount, FlowKey, RefusalEvent, maps};

use super::{KernelError, addr, lock, socket_addr, take};

/// A direct connection that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectConnection {
    /// The client's namespace: whose identity it has.
    pub netns_cookie: u64,
    /// The client.
    pub client: SocketAddr,
    /// The pod that it reached.
    pub server: SocketAddr,
    /// What it dialled.
    pub dialled: SocketAddr,
}

/// What connections of one kind amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Whose.
    pub key: FlowKey,
    /// Over all processors.
    pub count: FlowCount,
}

/// The maps.
pub struct DirectMaps {
    /// Only read here: nobody waits for who looks at all of it.
    connections: HashMap<MapData, DirectKey, DirectEntry>,
    /// Likewise.
    left: HashMap<MapData, DirectKey, u64>,
    flows: Mutex<PerCpuHashMap<MapData, FlowKey, FlowCount>>,
    flows_id: Option<u32>,
    /// Taken by who follows it.
    events: Mutex<Option<RingBuf<MapData>>>,
    /// Likewise.
    ended: Mutex<Option<RingBuf<MapData>>>,
}

impl DirectMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        // Before it is taken: as a typed map it does not tell any more.
        let flows_id = match ebpf.map(maps::FLOWS) {
            Some(Map::PerCpuHashMap(flows)) => flows.info().ok().map(|info| info.id()),
            _ => None,
        };
        Ok(Self {
            flows_id,
            connections: take(ebpf, maps::DIRECT)?,
            left: take(ebpf, maps::LEFT)?,
            flows: Mutex::new(with_overflow(take(ebpf, maps::FLOWS)?)),
            events: Mutex::new(Some(take(ebpf, maps::EVENTS)?)),
            ended: Mutex::new(Some(take(ebpf, maps::ENDED)?)),
        })
    }

    /// The ring of what was refused. There is one.
    pub fn events(&self) -> Option<RingBuf<MapData>> {
        lock(&self.events).take()
    }

    /// The ring of how connections ended. There is one.
    pub fn ended(&self) -> Option<RingBuf<MapData>> {
        lock(&self.ended).take()
    }

    /// Every direct connection that is open and was let through.
    pub fn connections(&self) -> Vec<DirectConnection> {
        // What was sent directly and did not arrive so (source NAT) is another's: the agent's, by its own row.
        // What a pod sends to itself no hook has to let in.
        let of_pods = |(key, entry): &(DirectKey, DirectEntry)| entry.admitted != 0 || key.src == key.dst;
        let all = self.connections.iter().flatten().filter(of_pods);
        all.map(|(key, entry)| DirectConnection {
            netns_cookie: entry.netns_cookie,
            client: socket_addr(key.src, key.src_port),
            server: socket_addr(key.dst, key.dst_port),
            dialled: socket_addr(entry.dialled, entry.dialled_port),
        })
        .collect()
    }

    /// Every open connection that was left as it was dialled: the client's namespace, and both ends.
    pub fn left(&self) -> Vec<(u64, SocketAddr, SocketAddr)> {
        let ends = |key: DirectKey| (socket_addr(key.src, key.src_port), socket_addr(key.dst, key.dst_port));
        self.left.iter().flatten().map(|(key, cookie)| (cookie, ends(key).0, ends(key).1)).collect()
    }

    /// Whose connection this is, if a client of this node noted it.
    pub fn source_of(&self, client: SocketAddr, server: SocketAddr) -> Option<u64> {
        let key = DirectKey {
            src: addr(client.ip().to_canonical()),
            dst: addr(server.ip().to_canonical()),
            src_port: client.port().into(),
            dst_port: server.port().into(),
        };
        self.connections.get(&key, 0).ok().map(|entry| entry.netns_cookie)
    }

    /// Forgets what connections amounted to whose client's namespace is gone. Best effort: it is tried again.
    pub fn forget_flows<'a>(&self, gone: impl Iterator<Item = &'a FlowKey>) {
        let mut flows = lock(&self.flows);
        for key in gone {
            // It may have gone by itself.
            let _ = flows.remove(key);
        }
    }

    /// The kernel's number of the map that [`flows`](Self::flows) reads, which is its own until the machine boots again.
    pub fn flows_id(&self) -> Option<u32> {
        self.flows_id
    }

    /// What all of them amount to.
    pub fn flows(&self) -> Vec<Flow> {
        let flows = lock(&self.flows);
        let all = flows.iter().flatten();
        all.map(|(key, per_cpu)| {
            let add = |field: fn(&FlowCount) -> u64| per_cpu.iter().map(field).sum();
            let durations = |field: fn(&FlowCount) -> &Durations| {
                per_cpu.iter().map(field).fold(Durations::NONE, |mut all, one| {
                    all.sum += one.sum;
                    all.counts.iter_mut().zip(one.counts).for_each(|(all, one)| *all += one);
                    all
                })
            };
            let count = FlowCount {
                opened: add(|count| count.opened),
                closed: add(|count| count.closed),
                failed: add(|count| count.failed),
                sent: add(|count| count.sent),
                received: add(|count| count.received),
                retransmits: add(|count| count.retransmits),
                connects: durations(|count| &count.connects),
                round_trips: durations(|count| &count.round_trips),
            };
            Flow { key, count }
        })
        .collect()
    }
}

/// What there is no room for is counted in a row that is always there. Best effort: a predecessor may have filled the map.
fn with_overflow(
    mut flows: PerCpuHashMap<MapData, FlowKey, FlowCount>,
) -> PerCpuHashMap<MapData, FlowKey, FlowCount> {
    if flows.get(&FlowKey::OF_OVERFLOW, 0).is_err() {
        let cpus = nr_cpus().map_err(|(_, error)| error);
        let nothing = cpus.and_then(|cpus| PerCpuValues::try_from(vec![FlowCount::default(); cpus]));
        let inserted = nothing
            .map_err(MapError::from)
            .and_then(|nothing| flows.insert(FlowKey::OF_OVERFLOW, nothing, 0));
        if let Err(error) = inserted {
            tracing::warn!(%error, "direct connections for which there is no room are not counted");
        }
    }
    flows
}

/// Reads an event.
pub fn event(bytes: &[u8]) -> Option<RefusalEvent> {
    read(bytes)
}

/// Reads the end of a connection.
pub fn ended(bytes: &[u8]) -> Option<EndedEvent> {
    read(bytes)
}

fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: as many bytes as the type has, of which any are one (`Pod`).
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}
