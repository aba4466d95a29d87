//! From what the operator excludes to map entries.
//!
//! ```text
//! excluded CIDRs ─▶ prefixes of 16-byte addresses (10.0.0.0/8 is ::ffff:10.0.0.0/104)
//! excluded ports ─▶ one entry a port
//! ```
//!
//! Pure. A short IPv6 prefix (`::/0`) holds the place of IPv4's addresses without meaning them: a mark on
//! `::ffff:0:0/96`, the longer prefix, takes them out again. Not here: writing the maps.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::lpm_trie::Key;
use mesh_common::{Addr, Settings, maps};
use mesh_model::MeshSettings;

use super::maps::addr;

#[cfg(test)]
mod tests;

/// Entry's value: passes as dialled.
const EXCLUDED: u32 = 1;
/// Entry's value: a mark, not excluded.
const NOT_EXCLUDED: u32 = 0;
/// Bits before those of an IPv4 address.
const V4_BEFORE: u32 = 96;

/// A prefix as the map's key has it: bits, address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Net {
    bits: u32,
    octets: [u8; 16],
}

impl Net {
    pub(super) fn key(&self) -> Key<Addr> {
        Key::new(self.bits, Addr::v6(self.octets))
    }

    pub(super) fn of_key(key: Key<Addr>) -> Self {
        Self { bits: key.prefix_len(), octets: key.data().octets() }
    }
}

/// All that is excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    nets: BTreeMap<Net, u32>,
    ports: BTreeSet<u16>,
}

/// More is excluded than the kernel's maps hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// CIDRs.
    #[error(
        "the MeshConfig excludes {0} CIDRs and {max} are possible: write fewer, larger ones in spec.excludedCIDRs",
        max = maps::EXCLUDED_NETS_SET_MAX
    )]
    Nets(usize),
    /// Ports.
    #[error(
        "the MeshConfig excludes {0} ports and {max} are possible: write smaller ranges in spec.excludedPorts, or exclude the addresses",
        max = maps::EXCLUDED_PORTS_SET_MAX
    )]
    Ports(usize),
}

impl Exclusions {
    /// What the settings exclude.
    pub fn of(settings: &MeshSettings) -> Result<Self, TooMany> {
        let mut nets = BTreeMap::new();
        for net in &settings.excluded_prefixes {
            let before = if net.addr().is_ipv4() { V4_BEFORE } else { 0 };
            let octets = addr(net.trunc().addr()).octets();
            nets.insert(Net { bits: before + u32::from(net.prefix_len()), octets }, EXCLUDED);
        }
        if nets.len() > maps::EXCLUDED_NETS_SET_MAX {
            return Err(TooMany::Nets(nets.len()));
        }
        let v4 = Net { bits: V4_BEFORE, octets: Addr::v4([0; 4]).octets() };
        if nets.keys().any(|net| net.bits < V4_BEFORE) {
            nets.entry(v4).or_insert(NOT_EXCLUDED);
        }
        let mut ports = BTreeSet::new();
        for range in &settings.excluded_ports {
            ports.extend(range.clone());
        }
        if ports.len() > maps::EXCLUDED_PORTS_SET_MAX {
            return Err(TooMany::Ports(ports.len()));
        }
        Ok(Self { nets, ports })
    }

    /// What the hooks are told to look at.
    pub(super) fn flags(&self) -> u32 {
        Self::flags_of(!self.nets.is_empty(), !self.ports.is_empty())
    }

    pub(super) fn flags_of(nets: bool, ports: bool) -> u32 {
        (u32::from(nets) * Settings::EXCLUDED_NETS) | (u32::from(ports) * Settings::EXCLUDED_PORTS)
    }

    /// Entries of the map of networks; marks first.
    pub(super) fn nets(&self) -> impl Iterator<Item = (Net, u32)> {
        let of = |wanted: u32| {
            self.nets.iter().filter(move |(_, value)| **value == wanted).map(|(net, value)| (*net, *value))
        };
        of(NOT_EXCLUDED).chain(of(EXCLUDED))
    }

    pub(super) fn has_net(&self, net: &Net) -> bool {
        self.nets.contains_key(net)
    }

    /// Entries of the map of ports.
    pub(super) fn ports(&self) -> impl Iterator<Item = u32> {
        self.ports.iter().map(|port| u32::from(*port))
    }

    pub(super) fn has_port(&self, port: u32) -> bool {
        u16::try_from(port).is_ok_and(|port| self.ports.contains(&port))
    }

    /// How many CIDRs and ports, for people.
    pub fn counts(&self) -> (usize, usize) {
        (self.nets.values().filter(|value| **value == EXCLUDED).count(), self.ports.len())
    }
}
