//! Services: which connects the kernel refuses, and among which endpoints it chooses.
//!
//! A Service's cluster address gets a row for itself (port 0) and one for each port, an external or load balancer's address
//! one for each port alone: at other ports it is somebody else's.

use std::collections::HashMap;
use std::net::SocketAddr;

use mesh_common::{Endpoint16, ServiceKey16, ServiceState};
use mesh_model::{Question, Reason, Scope, Served, World};

use crate::kernel::maps::addr;

/// What the kernel is to do at an address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A `ServiceState` constant: why there is nobody, or 0 for the row of an address.
    Plain(u32),
    /// The agent chooses.
    Ask,
    /// One of these.
    Choose {
        /// At least one.
        endpoints: Vec<Endpoint16>,
        /// 0: none.
        affinity_seconds: u32,
    },
}

/// All Service rows of a world, for the node that it is seen from.
pub(super) fn rows(world: &World) -> HashMap<ServiceKey16, Wanted> {
    let mut rows = HashMap::new();
    for (address, served) in world.service_addresses() {
        let service = served.service();
        let key = |port: u16| ServiceKey16 { addr: addr(address), port: port.into() };
        if service.other_proxy.is_some() {
            // Dialled as it is, whatever the port; unless that might lead into the mesh.
            rows.insert(key(0), Wanted::Plain(ServiceState::ASK_AT_ALL));
            continue;
        }
        rows.insert(key(0), Wanted::Plain(0));
        for port in &service.ports {
            let question = Question { port: *port, ipv6: address.is_ipv6(), scope: service.internal_scope() };
            rows.insert(key(*port), wanted(world, served, question));
        }
    }
    for (address, served) in world.outer_addresses() {
        let key = ServiceKey16 { addr: addr(address.ip()), port: address.port().into() };
        let question = Question { port: address.port(), ipv6: address.is_ipv6(), scope: Scope::Cluster };
        let service = served.service();
        let by_client = service.other_proxy.is_some()
            || service.load_balancer_addresses.contains(&address.ip()) && !service.source_ranges.is_empty();
        // Where it is a cluster address, too, that one's row stands.
        rows.entry(key).or_insert_with(|| match wanted(world, served, question) {
            Wanted::Choose { .. } if by_client => Wanted::Ask,
            _ if service.other_proxy.is_some() => Wanted::Ask,
            other => other,
        });
    }
    rows
}

fn wanted(world: &World, served: &Served, question: Question) -> Wanted {
    let candidates = match served.candidates(question) {
        Ok(candidates) => candidates,
        Err(Reason::NoLocalEndpoint) => return Wanted::Plain(ServiceState::NONE_HERE),
        Err(_) => return Wanted::Plain(ServiceState::NONE),
    };
    let targets: Vec<SocketAddr> = candidates.iter().filter_map(|one| served.target(*one)).collect();
    // Where one of them is a Service's address itself, the agent refuses when it is its turn.
    if targets.is_empty() || targets.iter().any(|target| world.is_service(*target)) {
        return Wanted::Ask;
    }
    let endpoint = |target: &SocketAddr| Endpoint16 { addr: addr(target.ip()), port: target.port().into() };
    Wanted::Choose {
        endpoints: targets.iter().map(endpoint).collect(),
        affinity_seconds: served.service().affinity_seconds,
    }
}
