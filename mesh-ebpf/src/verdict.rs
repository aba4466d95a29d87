//! What is let pass, what goes to the agent, what is refused: the whole table, in one place.
//!
//! Pure functions of what the hooks looked up; the hooks only look up and carry out. An entry point is one expression,
//! so no verdict can be computed and dropped.

use mesh_common::{Addr, AddrEntry, CapturePorts, ListenerKey, PodEntry, Refusal};

#[cfg(test)]
mod tests;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A known pod, in this state (`PodEntry::STATE_…`).
    Pod(u32),
    /// A process of a captured pod's cgroup, with a socket of another network namespace.
    Foreign,
    /// Below kubelet's cgroup, and nobody has said what it is.
    Unknown,
    /// No pod.
    Nobody,
}

/// What a connect hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    /// As dialled.
    Pass,
    /// To the agent: the caller must still find the service's state and the pod's address.
    Capture,
    /// ECONNREFUSED.
    Refuse(Refusal),
}

/// The owner of a socket whose namespace is not known, by the nearest known cgroup above the process.
#[inline(always)]
pub(crate) fn owner_by_cgroup(state: u32, its_cookie: u64, cookie: u64) -> Owner {
    if state == PodEntry::STATE_CAPTURED && its_cookie != cookie { Owner::Foreign } else { Owner::Pod(state) }
}

/// Whether exclusions are for this owner, and worth the look.
#[inline(always)]
pub(crate) fn heeds_exclusions(owner: Owner) -> bool {
    matches!(owner, Owner::Pod(PodEntry::STATE_CAPTURED | PodEntry::STATE_PENDING))
}

/// May this socket connect, and how. `excluded`: the operator took the destination out of the mesh, which takes neither the
/// agent nor the world to know.
#[inline(always)]
pub(crate) fn connect(
    owner: Owner,
    destination: &Addr,
    excluded: bool,
    allow_unknown: bool,
    world_complete: bool,
) -> Connect {
    match owner {
        Owner::Nobody | Owner::Pod(PodEntry::STATE_EXCLUDED) => Connect::Pass,
        _ if stays_local(destination) => Connect::Pass,
        _ if excluded && heeds_exclusions(owner) => Connect::Pass,
        Owner::Unknown if allow_unknown => Connect::Pass,
        Owner::Unknown => Connect::Refuse(Refusal::UnknownPod),
        Owner::Foreign => Connect::Refuse(Refusal::ForeignNetns),
        Owner::Pod(PodEntry::STATE_CAPTURED) if world_complete => Connect::Capture,
        Owner::Pod(PodEntry::STATE_CAPTURED) => Connect::Refuse(Refusal::NoWorld),
        // Pending, and any state that this program does not know.
        Owner::Pod(_) => Connect::Refuse(Refusal::NotReady),
    }
}

/// Never leaves the pod or its link.
#[inline(always)]
fn stays_local(destination: &Addr) -> bool {
    destination.is_loopback() || destination.is_unspecified() || destination.is_link_local()
}

/// Where a new connection that arrives at a pod's own address goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// To the application.
    Application,
    /// To the agent's listener of this kind.
    Listener(u32),
    /// From outside, to any port: to the application, if kubelet's connect left a note, else to the plaintext listener.
    Outside,
    /// To the outbound listener, if the client's connect left a note.
    NotedClient,
    /// To the application, if it is a delivery of the agent's.
    NotedDelivery,
    /// RST.
    Drop(Refusal),
}

/// A SYN to an address that is no captured pod's: a second network's, link-local, loopback. Nobody dials where the agent
/// delivers from, which is local in a captured pod and would lead around everything else.
#[inline(always)]
pub(crate) fn arrival_elsewhere(local: &Addr) -> Arrival {
    if local.is_delivery_source() { Arrival::Drop(Refusal::LoopbackSource) } else { Arrival::Application }
}

/// Judges a SYN by its addresses alone: this hook has no socket, no process and no namespace to ask.
#[inline(always)]
pub(crate) fn arrival(state: u32, remote: &Addr, local: &Addr, port: u32) -> Arrival {
    let loopback = remote.is_loopback() || remote.is_delivery_source();
    if port == ListenerKey::OUTBOUND || CapturePorts::holds(port) {
        // From wherever the pod's socket is bound; only the pod's own connect leaves the note.
        Arrival::NotedClient
    } else if loopback || remote == local {
        match port {
            ListenerKey::PLAINTEXT | ListenerKey::HBONE => Arrival::Drop(Refusal::AgentPort),
            _ if loopback => Arrival::NotedDelivery,
            _ => Arrival::Application,
        }
    } else {
        match port {
            ListenerKey::HBONE => Arrival::Listener(ListenerKey::HBONE),
            ListenerKey::PLAINTEXT => Arrival::Drop(Refusal::AgentPort),
            _ if state == AddrEntry::LEAVING => Arrival::Application,
            _ => Arrival::Outside,
        }
    }
}
