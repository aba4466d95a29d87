//! The object as it stands in its file: maps, programs, types, licence. Needs neither root nor a lab.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use aya_obj::Map;
use aya_obj::generated::bpf_map_type::{self, *};
use ebpf_tests::btf::Btf;
use ebpf_tests::object;
use lab::row::Table;
use mesh_common::{
    Addr, AddrEntry, AffinityEntry, AffinityKey, CgroupEntry, Counter, DeliveryKey, DestinationEntry,
    DirectEntry, DirectKey, EndedEvent, Endpoint16, EndpointKey, FlowCount, FlowKey, GuardedDevice,
    ListenerKey, MemberKey, NoteKey, Original, PairKey, PairVerdict, PodEntry, PortVerdict, ProbeKey,
    Refusal, RefusalEvent, ServiceKey16, ServiceState, Settings, SockNote, maps, programs,
};

const PROGRAMS: [&str; 7] = [
    programs::CONNECT4,
    programs::CONNECT6,
    programs::PEERNAME4,
    programs::PEERNAME6,
    programs::SOCKOPS,
    programs::SK_LOOKUP,
    programs::GUARD,
];

/// What the kernel takes of a name (BPF_OBJ_NAME_LEN, less the end).
const LONGEST_NAME: usize = 15;

/// As much of the node's memory as the maps may take: when the agent has started, and when every map is full.
const MIB: u64 = 1 << 20;
const MOST_AT_START: u64 = 34 * MIB;
const MOST_WHEN_FULL: u64 = 160 * MIB;

/// A type by its name in Rust and its size.
type Named = (&'static str, usize);

fn named<T>(name: &'static str) -> Named {
    (name, size_of::<T>())
}

/// What a map is to be like.
struct Wanted {
    name: &'static str,
    kind: bpf_map_type,
    key: Named,
    value: Named,
    entries: usize,
}

fn wanted() -> Vec<Wanted> {
    let map = |name, kind, key, value, entries| Wanted { name, kind, key, value, entries };
    let (u32, u64) = (named::<u32>("u32"), named::<u64>("u64"));
    let hash = BPF_MAP_TYPE_HASH;
    let endpoint = named::<Endpoint16>("Endpoint16");
    // aya's `Key<Addr>`, as C can write it: the number of bits, and the address.
    let prefix = ("Key_3C_mesh_common_3A__3A_abi_3A__3A_Addr_3E_", size_of::<u32>() + size_of::<Addr>());
    let ports = ("Key_3C_mesh_common_3A__3A_abi_3A__3A_tables_3A__3A_PortKey_3E_", size_of::<u32>() + 8);
    vec![
        map(maps::SETTINGS, BPF_MAP_TYPE_ARRAY, u32, named::<Settings>("Settings"), 1),
        map(maps::SELF, hash, u64, u32, maps::SELF_MAX),
        map(maps::PODS, hash, u64, named::<PodEntry>("PodEntry"), maps::PODS_MAX),
        map(maps::CGROUPS, hash, u64, named::<CgroupEntry>("CgroupEntry"), maps::CGROUPS_MAX),
        map(maps::ADDRS, hash, named::<Addr>("Addr"), named::<AddrEntry>("AddrEntry"), maps::ADDRS_MAX),
        map(
            maps::SERVICES,
            hash,
            named::<ServiceKey16>("ServiceKey16"),
            named::<ServiceState>("ServiceState"),
            maps::SERVICES_MAX,
        ),
        map(
            maps::LISTENERS,
            BPF_MAP_TYPE_SOCKHASH,
            named::<ListenerKey>("ListenerKey"),
            u32,
            maps::LISTENERS_MAX,
        ),
        map(
            maps::ORIGINALS,
            BPF_MAP_TYPE_LRU_HASH,
            named::<NoteKey>("NoteKey"),
            named::<Original>("Original"),
            maps::ORIGINALS_MAX,
        ),
        map(maps::DELIVERY, hash, named::<DeliveryKey>("DeliveryKey"), endpoint, maps::DELIVERY_MAX),
        map(maps::NOTES, BPF_MAP_TYPE_SK_STORAGE, named::<i32>("i32"), named::<SockNote>("SockNote"), 0),
        map(maps::KUBELET, hash, u64, u32, maps::KUBELET_MAX),
        map(maps::PROBES, BPF_MAP_TYPE_LRU_HASH, named::<ProbeKey>("ProbeKey"), u32, maps::PROBES_MAX),
        map(maps::EXCLUDED_NETS, BPF_MAP_TYPE_LPM_TRIE, prefix, u32, maps::EXCLUDED_NETS_MAX),
        map(maps::EXCLUDED_PORTS, hash, u32, u32, maps::EXCLUDED_PORTS_MAX),
        map(
            maps::DESTINATIONS,
            hash,
            named::<Addr>("Addr"),
            named::<DestinationEntry>("DestinationEntry"),
            maps::DESTINATIONS_MAX,
        ),
        map(maps::SOURCES, hash, u64, u32, maps::SOURCES_MAX),
        map(
            maps::PAIRS,
            hash,
            named::<PairKey>("PairKey"),
            named::<PairVerdict>("PairVerdict"),
            maps::PAIRS_MAX,
        ),
        map(maps::PORTS, BPF_MAP_TYPE_LPM_TRIE, ports, named::<PortVerdict>("PortVerdict"), maps::PORTS_MAX),
        map(maps::ENDPOINTS, hash, named::<EndpointKey>("EndpointKey"), endpoint, maps::ENDPOINTS_MAX),
        map(maps::MEMBERS, hash, named::<MemberKey>("MemberKey"), u32, maps::MEMBERS_MAX),
        map(
            maps::AFFINITY,
            BPF_MAP_TYPE_LRU_HASH,
            named::<AffinityKey>("AffinityKey"),
            named::<AffinityEntry>("AffinityEntry"),
            maps::AFFINITY_MAX,
        ),
        map(
            maps::DIRECT,
            hash,
            named::<DirectKey>("DirectKey"),
            named::<DirectEntry>("DirectEntry"),
            maps::DIRECT_MAX,
        ),
        map(maps::LEFT, hash, named::<DirectKey>("DirectKey"), u64, maps::LEFT_MAX),
        map(
            maps::FLOWS,
            BPF_MAP_TYPE_PERCPU_HASH,
            named::<FlowKey>("FlowKey"),
            named::<FlowCount>("FlowCount"),
            maps::FLOWS_MAX,
        ),
        map(maps::DEVICES, hash, u32, named::<GuardedDevice>("GuardedDevice"), maps::DEVICES_MAX),
        map(maps::REFUSED, BPF_MAP_TYPE_PERCPU_ARRAY, u32, u64, Refusal::COUNT as usize),
        map(maps::COUNTED, BPF_MAP_TYPE_PERCPU_ARRAY, u32, u64, Counter::COUNT as usize),
    ]
}

#[test]
fn every_map_is_laid_out_as_both_halves_have_agreed() {
    let object = object::parsed().unwrap();
    let btf = Btf::parse(&object.btf.as_ref().expect("the object has no BTF").to_bytes()).unwrap();
    let mut table = Table::new("every_map_is_laid_out_as_both_halves_have_agreed");
    for wanted in wanted() {
        table.row(wanted.name, || {
            let map = object.maps.get(wanted.name).context("the object has no such map")?;
            let found = (map.map_type(), map.key_size(), map.value_size(), map.max_entries());
            let agreed =
                (wanted.kind as u32, wanted.key.1 as u32, wanted.value.1 as u32, wanted.entries as u32);
            ensure!(found == agreed, "type, key, value and entries are {found:?} and not {agreed:?}");
            let Map::Btf(map) = map else { anyhow::bail!("it is declared without BTF") };
            for (what, id, (name, size)) in [
                ("key", map.def.btf_key_type_id, wanted.key),
                ("value", map.def.btf_value_type_id, wanted.value),
            ] {
                let found = btf.by_id(id).context(what)?;
                ensure!(found.name == name, "the {what} is called {:?} and not {name}", found.name);
                ensure!(found.size as usize == size, "the {what} has {} bytes and not {size}", found.size);
                let nameless = found.members.iter().any(String::is_empty);
                ensure!(!nameless, "the {what} has a field without a name");
            }
            Ok(format!("{} -> {}", wanted.key.0, wanted.value.0))
        });
    }
    table.row(maps::EVENTS, || {
        let map = object.maps.get(maps::EVENTS).context("the object has no such map")?;
        let found = (map.map_type(), map.max_entries());
        ensure!(found == (BPF_MAP_TYPE_RINGBUF as u32, maps::EVENTS_BYTES as u32), "it is {found:?}");
        Ok(format!("{} in {} bytes", size_of::<RefusalEvent>(), maps::EVENTS_BYTES))
    });
    table.row(maps::ENDED, || {
        let map = object.maps.get(maps::ENDED).context("the object has no such map")?;
        let found = (map.map_type(), map.max_entries());
        ensure!(found == (BPF_MAP_TYPE_RINGBUF as u32, maps::ENDED_BYTES as u32), "it is {found:?}");
        Ok(format!("{} in {} bytes", size_of::<EndedEvent>(), maps::ENDED_BYTES))
    });
    table.row("all maps that are pinned are there, and no others", || {
        let mut wanted: BTreeSet<&str> = wanted().iter().map(|map| map.name).collect();
        // Rings have neither key nor value.
        wanted.extend([maps::EVENTS, maps::ENDED]);
        ensure!(
            wanted == BTreeSet::from(maps::ALL),
            "this test does not know what `maps::ALL` is: {wanted:?}"
        );
        // The logger's ring buffer is aya's and is not pinned; constants are the object's own.
        let ours = object
            .maps
            .keys()
            .map(String::as_str)
            .filter(|name| *name != "AYA_LOGS" && !name.starts_with('.'));
        let found: BTreeSet<&str> = ours.collect();
        ensure!(found == wanted, "the object has {found:?}");
        Ok(String::new())
    });
    table.finish();
}

#[test]
fn names_fit_the_kernel_and_say_whose_they_are() {
    let object = object::parsed().unwrap();
    let mut table = Table::new("names_fit_the_kernel_and_say_whose_they_are");
    for name in PROGRAMS.into_iter().chain(maps::ALL) {
        table.row(name, || {
            ensure!(name.starts_with("mesh_"), "it does not say whose it is");
            ensure!(name.len() <= LONGEST_NAME, "{} bytes: the kernel would cut it off", name.len());
            Ok(String::new())
        });
    }
    table.row("all programs are there, and no others", || {
        let found: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
        ensure!(found == BTreeSet::from(PROGRAMS), "the object has {found:?}");
        Ok(String::new())
    });
    table.row("the licence lets programs call what is GPL only", || {
        let licence = object.license.to_str()?;
        ensure!(licence == "Dual BSD/GPL", "it is {licence:?}");
        Ok(licence.to_owned())
    });
    table.finish();
}

#[test]
fn the_maps_fit_in_the_memory_that_they_may_take() {
    let object = object::parsed().unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let (mut at_start, mut when_full) = (0, 0);
    for map in object.maps.values() {
        let (start, full) = memory(map, cpus).unwrap();
        at_start += start;
        when_full += full;
    }
    let mut table = Table::new("the_maps_fit_in_the_memory_that_they_may_take");
    for (row, bytes, most) in
        [("at start", at_start, MOST_AT_START), ("when all are full", when_full, MOST_WHEN_FULL)]
    {
        table.row(row, || {
            ensure!(bytes <= most, "{bytes} bytes are more than {} MiB", most / MIB);
            Ok(format!("{:.1} MiB of at most {} MiB", bytes as f64 / MIB as f64, most / MIB))
        });
    }
    table.finish();
}

/// What the kernel allocates for a map when it is made and when it is full, within some per cent: what its own
/// accounting says is in `load`.
fn memory(map: &Map, cpus: u64) -> Result<(u64, u64)> {
    /// `struct htab_elem`, `struct lru_node` in it, and `struct bpf_shtab_elem` are no larger.
    const ELEMENT: u64 = 64;
    /// `struct bucket`.
    const BUCKET: u64 = 16;
    const NO_PREALLOC: u32 = 1;
    let entries = u64::from(map.max_entries());
    let (key, value) =
        (u64::from(map.key_size()).next_multiple_of(8), u64::from(map.value_size()).next_multiple_of(8));
    let buckets = entries.next_power_of_two() * BUCKET;
    let elements = entries * (ELEMENT + key + value);
    let sparse = map.map_flags() & NO_PREALLOC != 0;
    Ok(match bpf_map_type::try_from(map.map_type()).ok().context("a map of no known type")? {
        BPF_MAP_TYPE_ARRAY => (entries * value, entries * value),
        BPF_MAP_TYPE_PERCPU_ARRAY => (entries * value * cpus, entries * value * cpus),
        BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_LRU_HASH if !sparse => (buckets + elements, buckets + elements),
        BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_SOCKHASH => (buckets, buckets + elements),
        BPF_MAP_TYPE_PERCPU_HASH => (buckets, buckets + elements + entries * value * cpus),
        BPF_MAP_TYPE_RINGBUF => (entries, entries),
        // `struct lpm_trie_node`, and one more in between for each.
        BPF_MAP_TYPE_LPM_TRIE => (0, 2 * elements),
        // With the sockets, and gone with them.
        BPF_MAP_TYPE_SK_STORAGE => (0, 0),
        other => anyhow::bail!("what does a {other:?} take?"),
    })
}
