//! Which way a captured pod's connect goes, as far as the tables settle it.
//!
//! ```text
//! dialled ─┬─ a Service ─▶ refused, or an endpoint: by affinity, else in turn ─┐
//!          └─ an address ──────────────────────────────────────────────────────┤
//!                                                                              ▼
//! target ─┬─ the pod itself ─▶ as it is                    no row, tables whole ─▶ left as it is: outside the mesh
//!         ├─ policy refuses ─▶ refused                     not settled ─▶ the agent
//!         ├─ a captured pod of this node, guarded ─▶ directly
//!         └─ a captured pod elsewhere ─▶ the agent, with the endpoint that was chosen here
//! ```
//!
//! The same as `mesh_model::route` and `mesh_model::policy` say (tests hold them equal): the agent wrote the tables with them.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use mesh_common::{
    Addr, AddrEntry, AffinityEntry, AffinityKey, Counter, DestinationEntry, Endpoint16, EndpointKey,
    ListenerKey, MemberKey, Refusal, ServiceKey16, ServiceState, Settings, Verdict,
};

use crate::maps::{ADDRS, AFFINITY, DESTINATIONS, ENDPOINTS, MEMBERS, SERVICES, counted};
use crate::tables;

/// What the hook does with a connect.
pub(super) enum Way {
    /// The agent carries it; to this endpoint, if one was chosen.
    Agent(Option<Endpoint16>),
    /// To this pod of the node.
    Direct { to: Endpoint16, audited: bool },
    /// To this destination, which is outside the mesh.
    Left(Endpoint16),
    /// To the pod itself.
    Own(Endpoint16),
    /// ECONNREFUSED.
    Refuse(Refusal),
    /// The same, by a policy of this destination.
    Deny(Endpoint16),
}

/// What is known of the Service that was dialled.
enum Service {
    /// It is none.
    No,
    /// The agent chooses.
    Ask,
    At(Endpoint16),
    Refuse(Refusal),
}

#[inline(always)]
pub(super) fn way(settings: &Settings, cookie: u64, dialled: Endpoint16, may_be_direct: bool) -> Way {
    let (to, chosen) = match service(cookie, dialled) {
        Service::No => (dialled, false),
        Service::At(endpoint) => (endpoint, true),
        Service::Ask => return Way::Agent(None),
        Service::Refuse(refusal) => return Way::Refuse(refusal),
    };
    // SAFETY: the agent replaces values whole.
    let local = unsafe { ADDRS.get(to.addr) };
    if local.is_some_and(|entry| entry.netns_cookie == cookie) {
        return Way::Own(to);
    }
    let agent = Way::Agent(if chosen { Some(to) } else { None });
    // SAFETY: as above.
    let Some(destination) = (unsafe { DESTINATIONS.get(to.addr) }) else {
        return if settings.flags & Settings::SETTLED != 0 { Way::Left(to) } else { agent };
    };
    if destination.kind != DestinationEntry::TUNNEL || ListenerKey::is_agents(to.port) {
        return agent;
    }
    match tables::verdict_of_pod(cookie, destination.class, to.port) {
        Verdict::DENY => Way::Deny(to),
        verdict @ (Verdict::ALLOW | Verdict::ALLOW_AUDITED) => {
            let is_here = local.is_some_and(|entry| entry.state == AddrEntry::CAPTURED);
            if is_here && may_be_direct && settings.flags & Settings::DIRECT != 0 {
                Way::Direct { to, audited: verdict == Verdict::ALLOW_AUDITED }
            } else {
                agent
            }
        }
        _ => {
            counted(Counter::Asked);
            agent
        }
    }
}

#[inline(always)]
fn service(cookie: u64, dialled: Endpoint16) -> Service {
    let Endpoint16 { addr, port } = dialled;
    let Some(row) = SERVICES.get_ptr_mut(ServiceKey16 { addr, port }) else {
        // SAFETY: as above.
        return match unsafe { SERVICES.get(ServiceKey16 { addr, port: 0 }) } {
            Some(state) if state.no_endpoint == ServiceState::ASK_AT_ALL => Service::Ask,
            Some(_) => Service::Refuse(Refusal::NoServicePort),
            None => Service::No,
        };
    };
    // SAFETY: the map gave the pointer; a row that is replaced meanwhile stays readable until this program ends.
    let state = unsafe { *row };
    match state.no_endpoint {
        0 => {}
        ServiceState::NONE_HERE => return Service::Refuse(Refusal::NoLocalEndpoint),
        _ => return Service::Refuse(Refusal::NoEndpoint),
    }
    if state.set == 0 || state.count == 0 {
        return Service::Ask;
    }
    let endpoint = match state.affinity_seconds {
        0 => in_turn(row, &state),
        _ => kept(cookie, dialled, row, &state),
    };
    endpoint.map_or(Service::Ask, Service::At)
}

/// Two processors may take the same turn: that is no harm.
#[inline(always)]
fn in_turn(row: *mut ServiceState, state: &ServiceState) -> Option<Endpoint16> {
    // SAFETY: as in `service`; the field is a hint that nobody relies on.
    unsafe { core::ptr::write_volatile(&raw mut (*row).turn, state.turn.wrapping_add(1)) };
    let index = state.turn % state.count;
    // SAFETY: values of this map are never changed in place.
    unsafe { ENDPOINTS.get(EndpointKey { set: state.set, index }) }.copied()
}

/// Where the pod's last connection went, if that was not too long ago and may still be chosen; else in turn, and remembered.
#[inline(always)]
fn kept(
    netns_cookie: u64,
    dialled: Endpoint16,
    row: *mut ServiceState,
    state: &ServiceState,
) -> Option<Endpoint16> {
    // SAFETY: the helper takes no pointer.
    let now = unsafe { bpf_ktime_get_ns() };
    let key = AffinityKey { addr: dialled.addr, port: dialled.port, reserved: 0, netns_cookie };
    // SAFETY: values of this map are replaced whole.
    let last = unsafe { AFFINITY.get(key) }.filter(|last| {
        let age = now.wrapping_sub(last.at) / 1_000_000_000;
        age < u64::from(state.affinity_seconds) && is_member(last.addr, last.port, state.set)
    });
    let endpoint = match last {
        Some(last) => Endpoint16 { addr: last.addr, port: last.port },
        None => in_turn(row, state)?,
    };
    let entry = AffinityEntry { addr: endpoint.addr, port: endpoint.port, reserved: 0, at: now };
    let _forgotten_at_worst = AFFINITY.insert(key, entry, 0);
    Some(endpoint)
}

#[inline(always)]
fn is_member(addr: Addr, port: u32, set: u32) -> bool {
    // SAFETY: values of this map are never changed in place.
    unsafe { MEMBERS.get(MemberKey { addr, port, set }) }.is_some()
}
