//! Where an outbound connection goes: the one decision of the outbound path, and what `meshctl explain` prints.
//!
//! ```text
//! original destination ─┬─ a Service's address ──▶ an endpoint that kube-proxy would choose ──▶ hop
//!                       ├─ a workload's address ──────────────────────────────────────────────▶ hop
//!                       └─ neither, in a complete world ─────────────────────────────▶ passthrough
//! hop ─┬─ workload reported captured ──▶ tunnel
//!      └─ otherwise ───────────────────▶ passthrough to the hop's address
//! ```
//!
//! Which endpoints may be chosen is [`crate::usable`]'s to say; docs/services.md has the rules for people. A cluster address
//! is its Service's at every port, an external or load balancer's address only at the Service's own ports and only where no
//! workload owns it: whoever may write Services must not be able to stand in for a pod.
//!
//! Pure: the balancer is handed in and is the only thing that remembers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{Question, Reason, Scope, Served, ServiceKey, Workload, World};

mod balancer;
#[cfg(test)]
mod tests;

pub use balancer::{Balancer, Choice, Pick, RoundRobin};

/// Who dials, on the node that the world is seen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address that it dials from.
    pub address: IpAddr,
}

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

/// Decides where a connection to `destination` goes.
pub fn route(world: &World, client: Client, destination: SocketAddr, balancer: &dyn Balancer) -> Route {
    if !world.is_complete() {
        return Route::Refuse(Reason::NoWorld);
    }
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let served = match world.service_at(destination.ip()) {
        Some(served) => Some((served, served.service().internal_scope())),
        // What comes from outside is subject to no traffic policy of the inside.
        None => world.outer_service_at(destination).map(|served| (served, Scope::Cluster)),
    };
    let Some((served, scope)) = served else { return hop(world, destination, None) };
    let chosen = match served.service().other_proxy {
        Some(_) => return left_to_other_proxy(world, served, destination),
        None => choose(served, scope, client, destination, balancer),
    };
    match chosen {
        // Dialled as it is it would be kube-proxy's to choose, in plain text.
        Ok(target) if world.is_service(target) => Route::Refuse(Reason::ServiceLoop),
        Ok(target) => hop(world, target, Some(served.service().key.clone())),
        Err(reason) => Route::Refuse(reason),
    }
}

/// The same for an endpoint that the kernel has chosen by the same rules, when `destination` was dialled.
pub fn route_to(world: &World, destination: SocketAddr, target: SocketAddr) -> Route {
    if !world.is_complete() {
        return Route::Refuse(Reason::NoWorld);
    }
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let service = world.service_at(destination.ip()).or_else(|| world.outer_service_at(destination));
    hop(world, target, service.map(|served| served.service().key.clone()))
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

fn choose(
    served: &Served,
    scope: Scope,
    client: Client,
    destination: SocketAddr,
    balancer: &dyn Balancer,
) -> Result<SocketAddr, Reason> {
    let service = served.service();
    let (port, ipv6) = (destination.port(), destination.is_ipv6());
    let candidates = served.candidates(Question { port, ipv6, scope })?;
    let client = client.address.to_canonical();
    if !service.admits(destination.ip(), client) {
        return Err(Reason::SourceRange);
    }
    let choice = Choice { service: &service.key, port, ipv6 };
    let any = || {
        let chosen = balancer.choose(&choice, candidates.len()) % candidates.len();
        candidates.get(chosen).and_then(|candidate| served.target(*candidate))
    };
    let target = match service.affinity_seconds {
        0 => any(),
        seconds => balancer.keep(&choice, client, seconds, &mut |last| {
            let still = |last: &SocketAddr| {
                candidates.iter().any(|candidate| served.target(*candidate) == Some(*last))
            };
            last.filter(still).or_else(any)
        }),
    };
    target.ok_or(Reason::NoEndpoint)
}

/// The address is dialled as it is, so whoever serves it chooses; but what that one may choose must not be in the mesh.
fn left_to_other_proxy(world: &World, served: &Served, destination: SocketAddr) -> Route {
    let service = served.service();
    let in_the_mesh = |address: IpAddr| {
        world.is_contested(address) || world.workload_at(address).is_some_and(|pod| pod.tunnel.is_hbone())
    };
    if service.endpoints.iter().any(|endpoint| in_the_mesh(endpoint.address)) {
        return Route::Refuse(Reason::OtherProxy);
    }
    let service = Some(service.key.clone());
    Route::Passthrough(Hop { target: destination, workload: None, service })
}
