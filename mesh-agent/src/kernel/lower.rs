//! From the model to map entries: which connects the kernel itself refuses.
//!
//! Pure. A Service's address gets a row for itself (port 0) and one for each port, which says whether there is an
//! endpoint of the address' family. What has no row is the agent's to decide, so a missing row never lets anything
//! pass: it only moves a refusal from `connect(2)` to a reset.

use std::collections::HashMap;

use mesh_common::{ServiceKey16, ServiceState};
use mesh_model::{World, route};

use super::maps::addr;

#[cfg(test)]
mod tests;

/// All Service rows of a world.
pub fn services(world: &World) -> HashMap<ServiceKey16, ServiceState> {
    let mut rows = HashMap::new();
    for service in world.services() {
        for address in &service.addresses {
            let key = |port: u16| ServiceKey16 { addr: addr(*address), port: port.into() };
            rows.insert(key(0), ServiceState { no_endpoint: 0 });
            for port in &service.ports {
                let served = route::usable_endpoints(service, *address, *port).next().is_some();
                rows.insert(key(*port), ServiceState { no_endpoint: u32::from(!served) });
            }
        }
    }
    rows
}
