//! Who talked to whom in the last hour, as the agents that are connected here have said.
//!
//! For people only: nothing is decided by it. Bounded by node and over all; what there is no room for is counted. Forgotten an hour
//! after the last connection. Not here: other replicas' agents.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use mesh_model::{Identity, TrustDomain, Uid};
use mesh_telemetry::api::{ObservedRow, Timestamp, WorldDump};
use mesh_xds::Seen;

use super::Hub;

/// How long a pair is remembered after its last connection.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Pairs of one node, about 250 bytes each …
const OF_NODE: usize = 8_192;
/// … and of all.
const OF_ALL: usize = 131_072;

/// What agents have said.
#[derive(Debug, Default)]
pub(super) struct Observed {
    nodes: HashMap<String, Node>,
}

#[derive(Debug, Default)]
struct Node {
    pairs: HashMap<Pair, Sighting>,
    /// As its agent counts.
    lost: u64,
    /// For want of room here.
    dropped: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    identity: Option<Identity>,
    source: Option<Uid>,
    address: IpAddr,
    uid: Uid,
    port: u16,
}

#[derive(Debug)]
struct Sighting {
    connections: u64,
    last: Instant,
}

impl Observed {
    fn forget_old(&mut self, now: Instant) {
        for node in self.nodes.values_mut() {
            node.pairs.retain(|_, seen| now.saturating_duration_since(seen.last) < REMEMBERED);
        }
        self.nodes.retain(|_, node| !node.pairs.is_empty());
    }

    pub(super) fn add(&mut self, name: &str, seen: impl Iterator<Item = Seen>, lost: u64, now: Instant) {
        self.forget_old(now);
        let mut room = OF_ALL.saturating_sub(self.nodes.values().map(|node| node.pairs.len()).sum());
        let node = self.nodes.entry(name.to_owned()).or_default();
        node.lost = lost;
        for Seen { identity, source, address, uid, port, connections, ago } in seen {
            let last = now.checked_sub(ago).unwrap_or(now);
            let pair = Pair { identity, source, address, uid, port };
            if !node.pairs.contains_key(&pair) {
                if room == 0 || node.pairs.len() >= OF_NODE {
                    node.dropped += connections;
                    continue;
                }
                room -= 1;
            }
            node.pairs.insert(pair, Sighting { connections, last });
        }
    }

    pub(super) fn rows(&mut self, now: Instant, wall: SystemTime) -> (Vec<ObservedRow>, u64) {
        self.forget_old(now);
        let lost = self.nodes.values().map(|node| node.lost + node.dropped).sum();
        let rows = self.nodes.values().flat_map(|node| &node.pairs).map(|(pair, seen)| ObservedRow {
            identity: pair.identity.clone(),
            source: pair.source.clone(),
            address: pair.address,
            uid: pair.uid.clone(),
            port: pair.port,
            connections: seen.connections,
            last: wall.checked_sub(now.saturating_duration_since(seen.last)).unwrap_or(wall).into(),
        });
        let mut rows: Vec<ObservedRow> = rows.collect();
        rows.sort_by(|a, b| (&a.uid, a.port, a.address).cmp(&(&b.uid, b.port, b.address)));
        (rows, lost)
    }
}

impl Hub {
    /// An agent says who talked to its node's pods.
    pub fn observe(&self, node: &str, seen: impl Iterator<Item = Seen>, lost: u64) {
        self.state().observed.add(node, seen, lost, Instant::now());
    }

    /// Everything that policies are judged by, and on whom.
    pub fn dump(&self, trust_domain: TrustDomain, system_namespace: &str) -> WorldDump {
        let mut state = self.state();
        let wall = SystemTime::now();
        let (observed, unobserved) = state.observed.rows(Instant::now(), wall);
        let (workloads, services, policies) = state.index.dump();
        WorldDump {
            as_of: Timestamp::from(wall),
            trust_domain,
            system_namespace: system_namespace.to_owned(),
            mesh: state.index.mesh_settings().cloned(),
            workloads,
            services,
            policies,
            observed,
            unobserved,
        }
    }
}

#[cfg(test)]
mod tests;
