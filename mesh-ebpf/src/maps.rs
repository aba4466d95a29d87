//! The maps, with BTF, so that `bpftool map dump pinned …` prints named fields.
//!
//! What each holds is said in `mesh_common::maps`; who writes it:
//!
//! | map | written by | read by |
//! |---|---|---|
//! | settings, self, pods, cgroups, addrs, services, listeners | agent | hooks |
//! | originals | sockops (client's end) | sockops (agent's end), agent |
//! | delivery | sockops (agent's end) | `sk_lookup`, sockops (application's end) |
//! | kubelet, excluded networks and ports | agent | connect hook |
//! | destinations, sources, pairs, ports, endpoints, members, devices | agent | hooks |
//! | affinity | connect hook | connect hook |
//! | direct | sockops (client's end) | `sk_lookup`, guard, agent |
//! | flows | sockops | agent |
//! | events | hooks | agent |
//! | probes | sockops (kubelet's end) | `sk_lookup` |
//! | notes | connect hook, agent, sockops | sockops, peername hook, agent |
//! | refused, counted | hooks | agent |

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, SockHash,
};
use aya_ebpf::macros::btf_map;
use mesh_common::{
    Addr, AddrEntry, AffinityEntry, AffinityKey, CgroupEntry, Counter, DeliveryKey, DestinationEntry,
    DirectEntry, DirectKey, EndedEvent, Endpoint16, EndpointKey, FlowCount, FlowKey, GuardedDevice,
    ListenerKey, MemberKey, NoteKey, Original, PairKey, PairVerdict, PodEntry, PortKey, PortVerdict,
    ProbeKey, Refusal, RefusalEvent, ServiceKey16, ServiceState, Settings, SockNote, maps,
};

const SPARSE: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "mesh_settings")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map(name = "mesh_self")]
pub(crate) static SELF: HashMap<u64, u32, { maps::SELF_MAX }> = HashMap::new();
#[btf_map(name = "mesh_pods")]
pub(crate) static PODS: HashMap<u64, PodEntry, { maps::PODS_MAX }> = HashMap::new();
#[btf_map(name = "mesh_cgroups")]
pub(crate) static CGROUPS: HashMap<u64, CgroupEntry, { maps::CGROUPS_MAX }> = HashMap::new();
#[btf_map(name = "mesh_addrs")]
pub(crate) static ADDRS: HashMap<Addr, AddrEntry, { maps::ADDRS_MAX }> = HashMap::new();
#[btf_map(name = "mesh_services")]
pub(crate) static SERVICES: HashMap<ServiceKey16, ServiceState, { maps::SERVICES_MAX }, SPARSE> =
    HashMap::new();
#[btf_map(name = "mesh_listeners")]
pub(crate) static LISTENERS: SockHash<ListenerKey, { maps::LISTENERS_MAX }> = SockHash::new();
#[btf_map(name = "mesh_originals")]
pub(crate) static ORIGINALS: LruHashMap<NoteKey, Original, { maps::ORIGINALS_MAX }> = LruHashMap::new();
#[btf_map(name = "mesh_delivery")]
pub(crate) static DELIVERY: HashMap<DeliveryKey, Endpoint16, { maps::DELIVERY_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_kubelet")]
pub(crate) static KUBELET: HashMap<u64, u32, { maps::KUBELET_MAX }> = HashMap::new();
#[btf_map(name = "mesh_probes")]
pub(crate) static PROBES: LruHashMap<ProbeKey, u32, { maps::PROBES_MAX }> = LruHashMap::new();
#[btf_map(name = "mesh_excl_nets")]
pub(crate) static EXCLUDED_NETS: LpmTrie<Addr, u32, { maps::EXCLUDED_NETS_MAX }> = LpmTrie::new();
#[btf_map(name = "mesh_excl_ports")]
pub(crate) static EXCLUDED_PORTS: HashMap<u32, u32, { maps::EXCLUDED_PORTS_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_dests")]
pub(crate) static DESTINATIONS: HashMap<Addr, DestinationEntry, { maps::DESTINATIONS_MAX }, SPARSE> =
    HashMap::new();
#[btf_map(name = "mesh_sources")]
pub(crate) static SOURCES: HashMap<u64, u32, { maps::SOURCES_MAX }> = HashMap::new();
#[btf_map(name = "mesh_pairs")]
pub(crate) static PAIRS: HashMap<PairKey, PairVerdict, { maps::PAIRS_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_ports")]
pub(crate) static PORTS: LpmTrie<PortKey, PortVerdict, { maps::PORTS_MAX }> = LpmTrie::new();
#[btf_map(name = "mesh_endpoints")]
pub(crate) static ENDPOINTS: HashMap<EndpointKey, Endpoint16, { maps::ENDPOINTS_MAX }, SPARSE> =
    HashMap::new();
#[btf_map(name = "mesh_members")]
pub(crate) static MEMBERS: HashMap<MemberKey, u32, { maps::MEMBERS_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_affinity")]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, { maps::AFFINITY_MAX }> =
    LruHashMap::new();
#[btf_map(name = "mesh_direct")]
pub(crate) static DIRECT: HashMap<DirectKey, DirectEntry, { maps::DIRECT_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_left")]
pub(crate) static LEFT: HashMap<DirectKey, u64, { maps::LEFT_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_flows")]
pub(crate) static FLOWS: PerCpuHashMap<FlowKey, FlowCount, { maps::FLOWS_MAX }, SPARSE> =
    PerCpuHashMap::new();
#[btf_map(name = "mesh_devices")]
pub(crate) static DEVICES: HashMap<u32, GuardedDevice, { maps::DEVICES_MAX }, SPARSE> = HashMap::new();
#[btf_map(name = "mesh_events")]
static EVENTS: RingBuf<RefusalEvent, { maps::EVENTS_BYTES }> = RingBuf::new();
#[btf_map(name = "mesh_ended")]
static ENDED: RingBuf<EndedEvent, { maps::ENDED_BYTES }> = RingBuf::new();
#[btf_map(name = "mesh_notes")]
pub(crate) static NOTES: SkStorage<SockNote> = SkStorage::new();
#[btf_map(name = "mesh_refused")]
static REFUSED: PerCpuArray<u64, { Refusal::COUNT as usize }> = PerCpuArray::new();
#[btf_map(name = "mesh_counted")]
static COUNTED: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Counts a refusal.
#[inline(always)]
pub(crate) fn refused(refusal: Refusal) {
    if let Some(count) = REFUSED.get_ptr_mut(refusal as u32) {
        // SAFETY: the slot is this CPU's own, and programs of one CPU do not preempt each other within the addition.
        unsafe { *count += 1 };
    }
}

/// Counts an event.
#[inline(always)]
pub(crate) fn counted(counter: Counter) {
    if let Some(count) = COUNTED.get_ptr_mut(counter as u32) {
        // SAFETY: as in `refused`.
        unsafe { *count += 1 };
    }
}

/// Tells the agent of a connection's end. Without room in the ring that is counted, and nothing else.
#[inline(always)]
pub(crate) fn told_end(event: &EndedEvent) {
    if ENDED.output(event, 0).is_err() {
        counted(Counter::EndingsLost);
    }
}

/// Tells the agent of something that was refused. Without room in the ring that is counted, and nothing else.
#[inline(always)]
pub(crate) fn told(event: &RefusalEvent) {
    if EVENTS.output(event, 0).is_err() {
        counted(Counter::EventsLost);
    }
}
