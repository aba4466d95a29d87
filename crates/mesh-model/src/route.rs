//! Where an outbound connection goes: the one decision of the outbound path, and what `meshctl explain` prints.
//!
//! ```text
//! original destination ─┬─ a service address ──▶ endpoint of the client's family, ready ──▶ hop
//!                       ├─ a workload's address ─────────────────────────────────────────▶ hop
//!                       └─ neither, in a complete world ─────────────────────────▶ passthrough
//! hop ─┬─ workload reported captured ──▶ tunnel
//!      └─ otherwise ───────────────────▶ passthrough to the hop's address
//! ```
//!
//! Pure: the balancer is handed in and is the only thing that remembers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Endpoint, Reason, Service, ServiceKey, Workload, World};

#[cfg(test)]
mod tests;

/// How to reach a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through a tunnel to the agent of the workload.
    Tunnel(Hop),
    /// As plain TCP: the destination is outside the mesh, or not yet in it.
    Passthrough(Hop),
    /// Not at all.
    Refuse(Reason),
}

/// The endpoint that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The pod's (or outside host's) own address and port.
    pub target: SocketAddr,
    /// The workload at that address, if it is one.
    pub workload: Option<Arc<Workload>>,
    /// The Service that was dialled, if it was one.
    pub service: Option<ServiceKey>,
}

/// Chooses one of several endpoints.
pub trait Balancer: Send + Sync {
    /// An index below `count` for this connection. `count` is at least one.
    fn choose(&self, service: &ServiceKey, count: usize) -> usize;
}

/// Each service's endpoints in turn, counted per service (one shared counter would pin two services that are dialled
/// alternately to the same endpoint each).
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// Held for one increment.
    turns: Mutex<HashMap<ServiceKey, usize>>,
}

impl Balancer for RoundRobin {
    fn choose(&self, service: &ServiceKey, count: usize) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match turns.get_mut(service) {
            Some(turn) => turn,
            None => turns.entry(service.clone()).or_default(),
        };
        let choice = *turn % count.max(1);
        *turn = turn.wrapping_add(1);
        choice
    }
}

/// Decides where a connection to `destination` goes.
pub fn route(world: &World, destination: SocketAddr, balancer: &dyn Balancer) -> Route {
    if !world.is_complete() {
        return Route::Refuse(Reason::NoWorld);
    }
    let address = destination.ip().to_canonical();
    if let Some(service) = world.service_at(address) {
        return match choose_endpoint(service, address, destination.port(), balancer) {
            Ok(target) => hop(world, target, Some(service.key.clone())),
            Err(reason) => Route::Refuse(reason),
        };
    }
    hop(world, SocketAddr::new(address, destination.port()), None)
}

fn hop(world: &World, target: SocketAddr, service: Option<ServiceKey>) -> Route {
    // As an endpoint of a Service too: plaintext might be what neither of the claimants wants.
    if world.is_contested(target.ip()) {
        return Route::Refuse(Reason::ContestedAddress);
    }
    let workload = world.workload_at(target.ip()).cloned();
    let tunnel = workload.as_ref().is_some_and(|workload| workload.tunnel.is_hbone());
    let hop = Hop { target, workload, service };
    if tunnel { Route::Tunnel(hop) } else { Route::Passthrough(hop) }
}

/// The endpoints that may serve a port of a Service for clients of one address family.
pub fn usable_endpoints(
    service: &Service,
    client: IpAddr,
    port: u16,
) -> impl Iterator<Item = (&Endpoint, u16)> {
    service
        .endpoints
        .iter()
        .filter(move |endpoint| endpoint.ready && endpoint.address.is_ipv4() == client.is_ipv4())
        .filter_map(move |endpoint| Some((endpoint, endpoint.target_port(port)?)))
}

fn choose_endpoint(
    service: &Service,
    address: IpAddr,
    port: u16,
    balancer: &dyn Balancer,
) -> Result<SocketAddr, Reason> {
    if !service.ports.contains(&port) {
        return Err(Reason::NoServicePort);
    }
    let count = usable_endpoints(service, address, port).count();
    if count == 0 {
        return Err(Reason::NoEndpoint);
    }
    let index = balancer.choose(&service.key, count);
    usable_endpoints(service, address, port)
        .nth(index % count)
        .map(|(endpoint, target)| SocketAddr::new(endpoint.address, target))
        .ok_or(Reason::NoEndpoint)
}
