//! What the agent's tables say of a connection. A row that is not there says nothing: the agent decides.

use aya_ebpf::btf_maps::lpm_trie::Key;
use mesh_common::{Addr, PairKey, PairVerdict, PortKey, Settings, Verdict};

use crate::maps::{DESTINATIONS, EXCLUDED_NETS, EXCLUDED_PORTS, PAIRS, PORTS, SOURCES};

/// Between two classes at a port: a [`Verdict`] constant. No policy is about the destinations of class 0.
#[inline(always)]
pub(crate) fn verdict(source: u32, destination: u32, port: u32) -> u32 {
    if destination == 0 {
        return Verdict::ALLOW;
    }
    // SAFETY: the agent replaces values whole.
    match unsafe { PAIRS.get(PairKey { source, destination }) } {
        None => Verdict::ASK,
        Some(pair) if pair.verdict == PairVerdict::BY_PORT => {
            let key = Key::new(PortKey::BITS, PortKey::new(pair.ports, port));
            PORTS.get(&key).map_or(Verdict::ASK, |at| at.verdict)
        }
        Some(pair) => pair.verdict,
    }
}

/// From a pod, by its namespace, to a class of destinations.
#[inline(always)]
pub(crate) fn verdict_of_pod(netns_cookie: u64, destination: u32, port: u32) -> u32 {
    // SAFETY: as above.
    unsafe { SOURCES.get(netns_cookie) }.map_or(Verdict::ASK, |source| verdict(*source, destination, port))
}

/// The class of a destination in the mesh; `None`: it has no row.
#[inline(always)]
pub(crate) fn class_of(addr: Addr) -> Option<u32> {
    // SAFETY: as above.
    unsafe { DESTINATIONS.get(addr) }.map(|entry| entry.class)
}

/// Whether the operator took a destination out of the mesh.
#[inline(always)]
pub(crate) fn is_excluded(settings: &Settings, dialled: Addr, port: u32) -> bool {
    // SAFETY: values of this map are never changed in place.
    if settings.exclusions & Settings::EXCLUDED_PORTS != 0 && unsafe { EXCLUDED_PORTS.get(port) }.is_some() {
        return true;
    }
    settings.exclusions & Settings::EXCLUDED_NETS != 0
        && EXCLUDED_NETS.get(&Key::new(128, dialled)).is_some_and(|excluded| *excluded != 0)
}
