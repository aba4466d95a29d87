//! From the model to map entries: which connects the kernel itself refuses.
//!
//! Pure. A Service's cluster address gets a row for itself (port 0) and one for each port, an external or load balancer's
//! address one for each port alone: at other ports it is somebody else's. A row says whether a client on this node may be
//! sent to any endpoint, and agrees with [`mesh_model::route::route`] (a property test holds the two equal). What has no row
//! is the agent's to decide, so a missing row never lets anything pass: it only moves a refusal from `connect(2)` to a reset.

use std::collections::HashMap;

use mesh_common::{ServiceKey16, ServiceState};
use mesh_model::{Question, Reason, Scope, Served, World};

use super::maps::addr;

#[cfg(test)]
mod tests;

/// All Service rows of a world, for the node that it is seen from.
pub fn services(world: &World) -> HashMap<ServiceKey16, ServiceState> {
    let mut rows = HashMap::new();
    // Another proxy's address is dialled as it is, whatever endpoints there are.
    for (address, served) in world.service_addresses().filter(|(_, served)| is_ours(served)) {
        let service = served.service();
        let key = |port: u16| ServiceKey16 { addr: addr(address), port: port.into() };
        rows.insert(key(0), ServiceState { no_endpoint: 0 });
        for port in &service.ports {
            let scope = service.internal_scope();
            let state = state(served, Question { port: *port, ipv6: address.is_ipv6(), scope });
            rows.insert(key(*port), state);
        }
    }
    for (address, served) in world.outer_addresses().filter(|(_, served)| is_ours(served)) {
        let key = ServiceKey16 { addr: addr(address.ip()), port: address.port().into() };
        let question = Question { port: address.port(), ipv6: address.is_ipv6(), scope: Scope::Cluster };
        // Where it is a cluster address, too, that one's row stands.
        rows.entry(key).or_insert_with(|| state(served, question));
    }
    rows
}

fn is_ours(served: &Served) -> bool {
    served.service().other_proxy.is_none()
}

fn state(served: &Served, question: Question) -> ServiceState {
    let no_endpoint = match served.check(question) {
        Ok(()) => 0,
        Err(Reason::NoLocalEndpoint) => ServiceState::NONE_HERE,
        Err(_) => ServiceState::NONE,
    };
    ServiceState { no_endpoint }
}
