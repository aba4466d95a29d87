//! The keys and values of each map, decoded by the types that both halves share.

use std::net::IpAddr;
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, SockHash};
use mesh_common::{
    Addr, AddrEntry, AffinityEntry, AffinityKey, CgroupEntry, Counter, DeliveryKey, DestinationEntry,
    DirectEntry, DirectKey, Endpoint16, EndpointKey, FlowCount, FlowKey, GuardedDevice, ListenerKey,
    MemberKey, NoteKey, Original, PairKey, PairVerdict, PodEntry, PortKey, PortVerdict, ProbeKey, Refusal,
    ServiceKey16, ServiceState, Settings, Verdict, maps,
};
use mesh_model::Reason;
use mesh_telemetry::api::BpfEntry;
use serde_json::{Value, json};

/// What to do with a map's entries.
enum Walk {
    /// Only how many there are.
    Count(u64),
    /// At most so many.
    Read(usize, Vec<BpfEntry>),
}

impl Walk {
    /// Takes in all keys; `pair` decodes one with its value, unless it has gone meanwhile.
    fn over<K>(
        &mut self,
        most: usize,
        keys: impl Iterator<Item = K>,
        pair: impl Fn(K) -> Option<(Value, Value)>,
    ) {
        // A key that goes while a map is walked over makes the kernel begin anew: it must end all the same.
        let keys = keys.take(most.saturating_mul(2));
        match self {
            Self::Count(count) => *count += keys.count() as u64,
            Self::Read(limit, entries) => {
                let found = keys.filter_map(pair).take(*limit);
                entries.extend(found.map(|(key, value)| BpfEntry { key, value }));
            }
        }
    }
}

/// How many entries there are; `None` where they cannot be walked over.
pub(super) fn count(name: &str, path: &Path) -> Result<Option<u64>, MapError> {
    Ok(match walk(name, path, Walk::Count(0))? {
        Some(Walk::Count(count)) => Some(count),
        _ => None,
    })
}

/// At most `limit` entries, decoded; `None` where they cannot be walked over.
pub(super) fn read(name: &str, path: &Path, limit: usize) -> Result<Option<Vec<BpfEntry>>, MapError> {
    Ok(match walk(name, path, Walk::Read(limit, Vec::new()))? {
        Some(Walk::Read(_, entries)) => Some(entries),
        _ => None,
    })
}

fn walk(name: &str, path: &Path, mut walk: Walk) -> Result<Option<Walk>, MapError> {
    let open = || Map::from_map_data(MapData::from_pin(path)?);
    let into = &mut walk;
    match name {
        maps::SETTINGS => {
            let map = Array::<_, Settings>::try_from(open()?)?;
            into.over(1, std::iter::once(0), |_| Some((json!(0), settings(&map.get(&0, 0).ok()?))));
        }
        maps::SELF => hash(open()?, maps::SELF_MAX, into, number, plain)?,
        maps::KUBELET => hash(open()?, maps::KUBELET_MAX, into, number, plain)?,
        maps::PODS => hash(open()?, maps::PODS_MAX, into, number, pod)?,
        maps::CGROUPS => hash(open()?, maps::CGROUPS_MAX, into, number, cgroup)?,
        maps::ADDRS => hash(open()?, maps::ADDRS_MAX, into, address, captured_address)?,
        maps::SERVICES => hash(open()?, maps::SERVICES_MAX, into, service_key, service)?,
        maps::ORIGINALS => hash(open()?, maps::ORIGINALS_MAX, into, note_key, original)?,
        maps::DELIVERY => hash(open()?, maps::DELIVERY_MAX, into, delivery, endpoint)?,
        maps::PROBES => hash(open()?, maps::PROBES_MAX, into, probe, plain)?,
        maps::EXCLUDED_PORTS => hash(open()?, maps::EXCLUDED_PORTS_MAX, into, plain, plain)?,
        maps::DESTINATIONS => hash(open()?, maps::DESTINATIONS_MAX, into, address, destination)?,
        maps::SOURCES => hash(open()?, maps::SOURCES_MAX, into, number, plain)?,
        maps::PAIRS => hash(open()?, maps::PAIRS_MAX, into, pair_key, pair)?,
        maps::ENDPOINTS => hash(open()?, maps::ENDPOINTS_MAX, into, endpoint_key, endpoint)?,
        maps::MEMBERS => hash(open()?, maps::MEMBERS_MAX, into, member, plain)?,
        maps::AFFINITY => hash(open()?, maps::AFFINITY_MAX, into, affinity_key, affinity)?,
        maps::DIRECT => hash(open()?, maps::DIRECT_MAX, into, ends, direct)?,
        maps::LEFT => hash(open()?, maps::LEFT_MAX, into, ends, number)?,
        maps::DEVICES => hash(open()?, maps::DEVICES_MAX, into, plain, device)?,
        maps::EXCLUDED_NETS => {
            let map = LpmTrie::<_, Addr, u32>::try_from(open()?)?;
            into.over(maps::EXCLUDED_NETS_MAX, map.keys().flatten(), |key| {
                let excluded = map.get(&key, 0).ok()?;
                Some((json!(prefix(key.data(), key.prefix_len())), json!({"excluded": excluded == 1})))
            });
        }
        maps::PORTS => {
            let map = LpmTrie::<_, PortKey, PortVerdict>::try_from(open()?)?;
            into.over(maps::PORTS_MAX, map.keys().flatten(), |key| {
                let PortVerdict { verdict } = map.get(&key, 0).ok()?;
                Some((port_range(key.data(), key.prefix_len()), json!(verdict_word(verdict))))
            });
        }
        maps::LISTENERS => {
            let map = SockHash::<_, ListenerKey>::try_from(open()?)?;
            // The sockets themselves cannot be read back.
            into.over(maps::LISTENERS_MAX, map.keys().flatten(), |key| {
                Some((at(key.addr, key.port), json!("socket")))
            });
        }
        maps::FLOWS => {
            let map = PerCpuHashMap::<_, FlowKey, FlowCount>::try_from(open()?)?;
            into.over(maps::FLOWS_MAX, map.keys().flatten(), |key| {
                Some((flow_key(&key), flow(&map.get(&key, 0).ok()?)))
            });
        }
        maps::REFUSED => {
            let map = PerCpuArray::<_, u64>::try_from(open()?)?;
            into.over(Refusal::ALL.len(), Refusal::ALL.iter(), |refusal| {
                let word = Reason::from(*refusal);
                Some((json!(word.as_str()), json!(sum(&map, *refusal as u32)?)))
            });
        }
        maps::COUNTED => {
            let map = PerCpuArray::<_, u64>::try_from(open()?)?;
            into.over(Counter::ALL.len(), Counter::ALL.iter(), |(counter, word)| {
                Some((json!(word), json!(sum(&map, *counter as u32)?)))
            });
        }
        // Rings and what sockets carry.
        _ => return Ok(None),
    }
    Ok(Some(walk))
}

fn hash<K: Pod, V: Pod>(
    map: Map,
    most: usize,
    walk: &mut Walk,
    key: fn(&K) -> Value,
    value: fn(&V) -> Value,
) -> Result<(), MapError> {
    let map = HashMap::<_, K, V>::try_from(map)?;
    walk.over(most, map.keys().flatten(), |found| Some((key(&found), value(&map.get(&found, 0).ok()?))));
    Ok(())
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> Option<u64> {
    map.get(&index, 0).ok().map(|per_cpu| per_cpu.iter().sum())
}

fn number(number: &u64) -> Value {
    json!(number)
}

fn plain(number: &u32) -> Value {
    json!(number)
}

pub(super) fn address(address: &Addr) -> Value {
    match address.is_none() {
        true => Value::Null,
        false => json!(ip(*address).to_string()),
    }
}

fn ip(address: Addr) -> IpAddr {
    IpAddr::from(address.octets()).to_canonical()
}

/// Address and port; null for no address.
fn at(address: Addr, port: u32) -> Value {
    if address.is_none() {
        return Value::Null;
    }
    match ip(address) {
        IpAddr::V4(v4) => json!(format!("{v4}:{port}")),
        IpAddr::V6(v6) => json!(format!("[{v6}]:{port}")),
    }
}

/// A prefix of an address, in the length of its own family.
pub(super) fn prefix(address: Addr, bits: u32) -> String {
    match ip(address) {
        IpAddr::V4(v4) if bits >= 96 => format!("{v4}/{}", bits - 96),
        _ => format!("{}/{bits}", std::net::Ipv6Addr::from(address.octets())),
    }
}

/// A set of ports and which of them: the first 32 bits are the set, the next 16 the port.
pub(super) fn port_range(key: PortKey, bits: u32) -> Value {
    let (set, first) = (u32::from_be(key.set), u32::from_be(key.port) >> 16);
    let free = 48_u32.saturating_sub(bits).min(16);
    let last = first | ((1_u32 << free) - 1);
    let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
    json!({"set": set, "ports": ports})
}

pub(super) fn verdict_word(verdict: u32) -> &'static str {
    match verdict {
        Verdict::ASK => "ask the agent",
        Verdict::ALLOW => "allow",
        Verdict::DENY => "deny",
        Verdict::ALLOW_AUDITED => "allow, audited",
        _ => "unknown",
    }
}

fn settings(settings: &Settings) -> Value {
    json!({
        "abi": settings.abi,
        "world_complete": settings.world_complete == 1,
        "allow_unknown": settings.allow_unknown == 1,
        "excluded_nets": settings.exclusions & Settings::EXCLUDED_NETS != 0,
        "excluded_ports": settings.exclusions & Settings::EXCLUDED_PORTS != 0,
        "host_cookie": settings.host_cookie,
        "direct": settings.flags & Settings::DIRECT != 0,
        "settled": settings.flags & Settings::SETTLED != 0,
        "next_number": settings.next_number,
    })
}

fn state(state: u32) -> &'static str {
    match state {
        PodEntry::STATE_CAPTURED => "captured",
        PodEntry::STATE_PENDING => "pending",
        PodEntry::STATE_EXCLUDED => "excluded",
        CgroupEntry::KUBEPODS => "kubepods",
        _ => "unknown",
    }
}

pub(super) fn pod(pod: &PodEntry) -> Value {
    json!({"state": state(pod.state), "addr4": address(&pod.addr4), "addr6": address(&pod.addr6)})
}

fn cgroup(cgroup: &CgroupEntry) -> Value {
    let earlier = cgroup.flags & CgroupEntry::EARLIER != 0;
    json!({"state": state(cgroup.state), "netns_cookie": cgroup.netns_cookie, "earlier": earlier})
}

fn captured_address(entry: &AddrEntry) -> Value {
    let state = if entry.state == AddrEntry::LEAVING { "leaving" } else { "captured" };
    json!({"state": state, "netns_cookie": entry.netns_cookie})
}

fn service_key(key: &ServiceKey16) -> Value {
    // Port 0 stands for the address itself.
    if key.port == 0 { address(&key.addr) } else { at(key.addr, key.port) }
}

fn service(service: &ServiceState) -> Value {
    let refused = match service.no_endpoint {
        0 => Value::Null,
        ServiceState::NONE => json!(Reason::NoEndpoint.as_str()),
        ServiceState::NONE_HERE => json!(Reason::NoLocalEndpoint.as_str()),
        _ => json!("ask the agent"),
    };
    json!({"refused": refused, "set": service.set, "count": service.count,
           "affinity_seconds": service.affinity_seconds, "turn": service.turn})
}

fn note_key(key: &NoteKey) -> Value {
    json!({"netns_cookie": key.netns_cookie, "client": at(key.addr, key.port), "capture_port": key.capture_port})
}

fn original(original: &Original) -> Value {
    json!({"dialled": at(original.addr, original.port), "endpoint": at(original.target, original.target_port)})
}

fn delivery(key: &DeliveryKey) -> Value {
    json!({"source": at(key.src, key.src_port), "destination": at(key.dst, key.dst_port)})
}

fn probe(key: &ProbeKey) -> Value {
    json!({"source": at(key.src, key.src_port), "destination": at(key.dst, key.dst_port)})
}

fn ends(key: &DirectKey) -> Value {
    json!({"source": at(key.src, key.src_port), "destination": at(key.dst, key.dst_port)})
}

fn endpoint(endpoint: &Endpoint16) -> Value {
    at(endpoint.addr, endpoint.port)
}

fn destination(entry: &DestinationEntry) -> Value {
    let kind = if entry.kind == DestinationEntry::TUNNEL { "tunnel" } else { "ask the agent" };
    json!({"kind": kind, "class": entry.class})
}

fn pair_key(key: &PairKey) -> Value {
    json!({"source": key.source, "destination": key.destination})
}

fn pair(pair: &PairVerdict) -> Value {
    match pair.verdict {
        PairVerdict::BY_PORT => json!({"verdict": "by port", "ports": pair.ports}),
        verdict => json!({"verdict": verdict_word(verdict)}),
    }
}

fn endpoint_key(key: &EndpointKey) -> Value {
    json!({"set": key.set, "index": key.index})
}

fn member(key: &MemberKey) -> Value {
    json!({"set": key.set, "endpoint": at(key.addr, key.port)})
}

fn affinity_key(key: &AffinityKey) -> Value {
    json!({"netns_cookie": key.netns_cookie, "service": at(key.addr, key.port)})
}

fn affinity(entry: &AffinityEntry) -> Value {
    json!({"endpoint": at(entry.addr, entry.port), "at": entry.at})
}

fn direct(entry: &DirectEntry) -> Value {
    json!({"netns_cookie": entry.netns_cookie, "dialled": at(entry.dialled, entry.dialled_port),
           "admitted": entry.admitted != 0})
}

fn flow_key(key: &FlowKey) -> Value {
    let kind = match key.kind {
        FlowKey::DIRECT => "direct",
        FlowKey::LEFT => "left",
        _ => "overflow",
    };
    json!({"kind": kind, "netns_cookie": key.netns_cookie, "peer": address(&key.peer),
           "dialled": at(key.dialled, key.dialled_port)})
}

fn flow(per_cpu: &[FlowCount]) -> Value {
    let add = |field: fn(&FlowCount) -> u64| per_cpu.iter().map(field).sum::<u64>();
    json!({"opened": add(|count| count.opened), "closed": add(|count| count.closed),
           "failed": add(|count| count.failed), "sent": add(|count| count.sent),
           "received": add(|count| count.received), "retransmits": add(|count| count.retransmits)})
}

fn device(device: &GuardedDevice) -> Value {
    let guard = match device.guard {
        GuardedDevice::OTHERS => "a pod outside the mesh",
        GuardedDevice::OWN => "a captured pod",
        GuardedDevice::STRICT => "a captured pod, strict",
        GuardedDevice::BRIDGE => "a bridge",
        _ => "unknown",
    };
    json!({"guard": guard, "netns_cookie": device.netns_cookie, "addr4": address(&device.addr4),
           "addr6": address(&device.addr6)})
}
