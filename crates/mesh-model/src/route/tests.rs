#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::world::tests::workload;
use crate::{Change, PortMap, Tunnel, Uid};

fn endpoint(address: &str, target: u16, ready: bool) -> Endpoint {
    Endpoint {
        workload: Some(Uid::new(address)),
        ready,
        ports: vec![PortMap { service: 80, target }],
        ..Endpoint::at(address.parse().unwrap())
    }
}

fn world(endpoints: Vec<Endpoint>) -> World {
    let mut world = World::default();
    world.apply(Change::Workload(workload("tunnelled", "10.0.0.1", Tunnel::Hbone)));
    world.apply(Change::Workload(workload("plain", "10.0.0.2", Tunnel::None)));
    world.apply(Change::Service(Service {
        addresses: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ports: vec![80],
        endpoints,
        ..Service::bare(ServiceKey::new("shop", "web"))
    }));
    world.set_complete();
    world
}

fn decide(world: &World, destination: &str) -> Route {
    route(world, destination.parse().unwrap(), &RoundRobin::default())
}

#[test]
fn nothing_is_outside_an_incomplete_world() {
    assert_eq!(decide(&World::default(), "192.0.2.1:80"), Route::Refuse(Reason::NoWorld));
}

#[test]
fn a_captured_peer_is_reached_through_a_tunnel_and_others_in_plaintext() {
    let world = world(vec![]);
    assert!(matches!(decide(&world, "10.0.0.1:8080"), Route::Tunnel(hop) if hop.workload.is_some()));
    assert!(matches!(decide(&world, "[::ffff:10.0.0.1]:8080"), Route::Tunnel(_)));
    assert!(matches!(decide(&world, "10.0.0.2:8080"), Route::Passthrough(hop) if hop.workload.is_some()));
    assert!(matches!(decide(&world, "192.0.2.1:80"), Route::Passthrough(hop) if hop.workload.is_none()));
}

#[test]
fn a_service_leads_to_its_ready_endpoints_in_turn() {
    let world = world(vec![
        endpoint("10.0.0.1", 8080, true),
        endpoint("10.0.0.9", 8080, false),
        endpoint("10.0.0.2", 8081, true),
    ]);
    let balancer = RoundRobin::default();
    let mut targets = Vec::new();
    for _ in 0..4 {
        match route(&world, "10.96.0.1:80".parse().unwrap(), &balancer) {
            Route::Tunnel(hop) | Route::Passthrough(hop) => targets.push(hop.target.to_string()),
            Route::Refuse(reason) => targets.push(reason.to_string()),
        }
    }
    assert_eq!(targets, ["10.0.0.1:8080", "10.0.0.2:8081", "10.0.0.1:8080", "10.0.0.2:8081"]);
}

#[test]
fn what_a_service_cannot_serve_is_refused() {
    let world = world(vec![endpoint("10.0.0.1", 8080, true)]);
    assert_eq!(decide(&world, "10.96.0.1:81"), Route::Refuse(Reason::NoServicePort));
    assert_eq!(decide(&world, "[fd00::1]:80"), Route::Refuse(Reason::NoEndpoint));
}
