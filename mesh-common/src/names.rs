//! Names that both halves, `bpftool` and people use, and the size of every map.

/// BPF programs, as `bpftool prog` shows them: at most 15 bytes.
pub mod programs {
    /// `cgroup/connect4`: the outbound hook for IPv4.
    pub const CONNECT4: &str = "mesh_connect4";
    /// `cgroup/connect6`: the outbound hook for IPv6 and IPv4-mapped IPv6.
    pub const CONNECT6: &str = "mesh_connect6";
    /// `cgroup/getpeername4`: the address that was dialled, or that dialled.
    pub const PEERNAME4: &str = "mesh_peername4";
    /// `cgroup/getpeername6`.
    pub const PEERNAME6: &str = "mesh_peername6";
    /// `sockops`: files and hands over notes.
    pub const SOCKOPS: &str = "mesh_sockops";
    /// `sk_lookup`: steers what arrives at a pod.
    pub const SK_LOOKUP: &str = "mesh_sk_lookup";
    /// `tc`, on the host's side of every pod's device: what leaves a pod is the pod's.
    pub const GUARD: &str = "mesh_guard";
}

/// BPF maps, as they are pinned below `weft/maps/`: at most 15 bytes.
pub mod maps {
    /// `Settings` of the node, one element.
    pub const SETTINGS: &str = "mesh_settings";
    /// Cgroup ids whose processes every hook lets pass: the agent's own.
    pub const SELF: &str = "mesh_self";
    /// Network namespace cookie -> `PodEntry`.
    pub const PODS: &str = "mesh_pods";
    /// Cgroup id -> `CgroupEntry`.
    pub const CGROUPS: &str = "mesh_cgroups";
    /// A captured pod's own address -> `AddrEntry`.
    pub const ADDRS: &str = "mesh_addrs";
    /// `ServiceKey16` -> `ServiceState`; the row with port 0 says that the address is a Service's.
    pub const SERVICES: &str = "mesh_services";
    /// `ListenerKey` -> the agent's listening socket.
    pub const LISTENERS: &str = "mesh_listeners";
    /// `NoteKey` -> where a redirected connection was going. LRU.
    pub const ORIGINALS: &str = "mesh_originals";
    /// `DeliveryKey` -> on whose behalf the agent delivers. Not LRU: an application must never see a bare loopback client.
    pub const DELIVERY: &str = "mesh_delivery";
    /// Socket storage: `SockNote`.
    pub const NOTES: &str = "mesh_notes";
    /// Per-CPU counters of refusals, by `Refusal`.
    pub const REFUSED: &str = "mesh_refused";
    /// Per-CPU counters of events, by `Counter`.
    pub const COUNTED: &str = "mesh_counted";

    /// Cgroup ids of kubelet's process: who connects from there, in the host's namespace, probes.
    pub const KUBELET: &str = "mesh_kubelet";
    /// `ProbeKey` -> 1: a connection of kubelet's to a captured pod that is open. LRU.
    pub const PROBES: &str = "mesh_probes";
    /// Destinations that captured pods dial as if there were no mesh: LPM trie, prefix of an `Addr` -> 1. 0 marks a prefix
    /// out of a longer one (all of IPv4, out of a short IPv6 prefix that would hold it).
    pub const EXCLUDED_NETS: &str = "mesh_excl_nets";
    /// Destination ports likewise: port -> 1.
    pub const EXCLUDED_PORTS: &str = "mesh_excl_ports";

    /// An address of the mesh -> `DestinationEntry`.
    pub const DESTINATIONS: &str = "mesh_dests";
    /// A captured pod's namespace cookie -> its class as a source of connections.
    pub const SOURCES: &str = "mesh_sources";
    /// `PairKey` -> `PairVerdict`: who may talk to whom.
    pub const PAIRS: &str = "mesh_pairs";
    /// `PortKey` -> `PortVerdict`: LPM trie.
    pub const PORTS: &str = "mesh_ports";
    /// `EndpointKey` -> where a Service's connections may go.
    pub const ENDPOINTS: &str = "mesh_endpoints";
    /// `MemberKey` -> 1: endpoints of sets whose Service has affinity.
    pub const MEMBERS: &str = "mesh_members";
    /// `AffinityKey` -> `AffinityEntry`. LRU.
    pub const AFFINITY: &str = "mesh_affinity";
    /// `DirectKey` -> `DirectEntry`: connections between pods of the node that no agent carries.
    pub const DIRECT: &str = "mesh_direct";
    /// `DirectKey` -> the client's namespace cookie: connections to what is outside the mesh, left as they were dialled.
    pub const LEFT: &str = "mesh_left";
    /// `FlowKey` -> `FlowCount`: what connections that no agent carries amount to.
    pub const FLOWS: &str = "mesh_flows";
    /// Index of a device in the host's namespace -> `GuardedDevice`.
    pub const DEVICES: &str = "mesh_devices";
    /// Ring of `RefusalEvent`.
    pub const EVENTS: &str = "mesh_events";

    /// Ring of `EndedEvent`.
    pub const ENDED: &str = "mesh_ended";

    /// All maps that are pinned.
    pub const ALL: [&str; 29] = [
        SETTINGS,
        SELF,
        PODS,
        CGROUPS,
        ADDRS,
        SERVICES,
        LISTENERS,
        ORIGINALS,
        DELIVERY,
        NOTES,
        REFUSED,
        COUNTED,
        KUBELET,
        PROBES,
        EXCLUDED_NETS,
        EXCLUDED_PORTS,
        DESTINATIONS,
        SOURCES,
        PAIRS,
        PORTS,
        ENDPOINTS,
        MEMBERS,
        AFFINITY,
        DIRECT,
        LEFT,
        FLOWS,
        DEVICES,
        EVENTS,
        ENDED,
    ];

    /// Entries of [`DESTINATIONS`]: two a workload.
    pub const DESTINATIONS_MAX: usize = 131_072;
    /// Entries of [`SOURCES`]: pods of one node.
    pub const SOURCES_MAX: usize = 4096;
    /// Entries of [`PAIRS`].
    pub const PAIRS_MAX: usize = 262_144;
    /// Entries of [`PORTS`]: a range is a few.
    pub const PORTS_MAX: usize = 65_536;
    /// Entries of [`ENDPOINTS`]: one an endpoint, port and family.
    pub const ENDPOINTS_MAX: usize = 262_144;
    /// Entries of [`MEMBERS`].
    pub const MEMBERS_MAX: usize = 65_536;
    /// Entries of [`AFFINITY`].
    pub const AFFINITY_MAX: usize = 16_384;
    /// Entries of [`DIRECT`]: connections at a time.
    pub const DIRECT_MAX: usize = 131_072;
    /// Entries of [`LEFT`]: connections at a time. One for which there is no room is counted when it ends.
    pub const LEFT_MAX: usize = 65_536;
    /// Entries of [`FLOWS`].
    pub const FLOWS_MAX: usize = 4096;
    /// Entries of [`DEVICES`]: pods of one node, some with several.
    pub const DEVICES_MAX: usize = 8192;
    /// Bytes of [`EVENTS`].
    pub const EVENTS_BYTES: usize = 256 << 10;
    /// Bytes of [`ENDED`].
    pub const ENDED_BYTES: usize = 1 << 20;

    /// Entries of [`SELF`].
    pub const SELF_MAX: usize = 16;
    /// Entries of [`PODS`]: pods of one node.
    pub const PODS_MAX: usize = 4096;
    /// Entries of [`CGROUPS`].
    pub const CGROUPS_MAX: usize = 8192;
    /// Entries of [`ADDRS`]: two a pod.
    pub const ADDRS_MAX: usize = 8192;
    /// Entries of [`SERVICES`]: one a port, and one an address.
    pub const SERVICES_MAX: usize = 65536;
    /// Entries of [`LISTENERS`]: three an address.
    pub const LISTENERS_MAX: usize = 24576;
    /// Entries of [`ORIGINALS`].
    pub const ORIGINALS_MAX: usize = 65536;
    /// Entries of [`DELIVERY`]: deliveries between SYN and accept.
    pub const DELIVERY_MAX: usize = 65536;
    /// Entries of [`KUBELET`]: one, and one more while kubelet moves.
    pub const KUBELET_MAX: usize = 4;
    /// Entries of [`PROBES`]: kubelet's connections to the node's pods at a time.
    pub const PROBES_MAX: usize = 8192;
    /// Entries of [`EXCLUDED_NETS`]: twice what may be set, because the new are written before the old go; and the mark
    /// that keeps IPv4 out.
    pub const EXCLUDED_NETS_MAX: usize = 2 * EXCLUDED_NETS_SET_MAX + 1;
    /// Prefixes that may be set at a time.
    pub const EXCLUDED_NETS_SET_MAX: usize = 1024;
    /// Entries of [`EXCLUDED_PORTS`]: twice what may be set.
    pub const EXCLUDED_PORTS_MAX: usize = 2 * EXCLUDED_PORTS_SET_MAX;
    /// Ports that may be set at a time.
    pub const EXCLUDED_PORTS_SET_MAX: usize = 4096;
}

/// Where things are pinned, below the directory that `--bpffs` names.
pub mod paths {
    /// The product's directory.
    pub const ROOT: &str = "weft";
    /// Maps, by name, below [`ROOT`].
    pub const MAPS: &str = "maps";
    /// Links of the node's hooks, by program name, below [`ROOT`].
    pub const LINKS: &str = "links";
    /// `sk_lookup` links, by network namespace cookie, below [`ROOT`].
    pub const PODS: &str = "pods";
    /// Links of the guards, by index of the host's device, below [`ROOT`].
    pub const GUARDS: &str = "guards";
}
