#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_model::route::{Client, RoundRobin, Route, route};
use mesh_model::{Change, Endpoint, Phase, PortMap, Service, ServiceKey, Tunnel, Uid, Workload};

use super::*;

#[test]
fn a_service_port_without_an_endpoint_of_its_family_is_refused_in_the_kernel() {
    let mut world = World::default();
    world.apply(Change::Service(Service {
        addresses: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ports: vec![80, 81],
        endpoints: vec![Endpoint {
            ports: vec![PortMap { service: 80, target: 8080 }],
            ..Endpoint::at("10.0.0.1".parse().unwrap())
        }],
        ..Service::bare(ServiceKey::new("shop", "web"))
    }));
    let rows = services(&world);
    let row = |address: &str, port: u32| {
        rows.get(&ServiceKey16 { addr: addr(address.parse().unwrap()), port }).map(|state| state.no_endpoint)
    };
    assert_eq!(row("10.96.0.1", 0), Some(0));
    assert_eq!(row("10.96.0.1", 80), Some(0));
    assert_eq!(row("10.96.0.1", 81), Some(1));
    assert_eq!(row("fd00::1", 80), Some(1));
    assert_eq!(row("10.96.0.1", 82), None);
}

#[test]
fn a_local_service_without_an_endpoint_on_the_node_is_refused_under_a_name_of_its_own() {
    let mut world = World::default();
    world.stand_on("a");
    world.apply(Change::Service(Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        external_addresses: vec!["192.0.2.1".parse().unwrap()],
        ports: vec![80],
        endpoints: vec![Endpoint {
            ports: vec![PortMap { service: 80, target: 8080 }],
            node: Some("b".into()),
            ..Endpoint::at("10.0.0.1".parse().unwrap())
        }],
        local_only: true,
        ..Service::bare(ServiceKey::new("shop", "web"))
    }));
    let rows = services(&world);
    let row = |address: &str, port: u32| {
        rows.get(&ServiceKey16 { addr: addr(address.parse().unwrap()), port }).map(|state| state.no_endpoint)
    };
    assert_eq!(row("10.96.0.1", 80), Some(ServiceState::NONE_HERE));
    assert_eq!(
        row("192.0.2.1", 80),
        Some(0),
        "what comes in from outside is subject to no policy of the inside"
    );
    assert_eq!(row("192.0.2.1", 0), None, "at other ports it is somebody else's");
}

/// What the hook makes of the rows.
fn kernel(rows: &HashMap<ServiceKey16, ServiceState>, to: SocketAddr) -> Option<Reason> {
    let row = |port: u16| rows.get(&ServiceKey16 { addr: addr(to.ip()), port: port.into() });
    match row(to.port()).map(|state| state.no_endpoint) {
        Some(0) => None,
        Some(ServiceState::NONE_HERE) => Some(Reason::NoLocalEndpoint),
        Some(_) => Some(Reason::NoEndpoint),
        None => row(0).map(|_| Reason::NoServicePort),
    }
}

#[test]
fn the_kernel_refuses_exactly_what_the_agent_would_refuse_for_want_of_an_endpoint() {
    let mut state = 1_u64;
    let mut dice = move |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let cluster = ["10.96.0.1", "10.96.0.2", "fd00:96::1", "fd00:96::2"];
    let outer = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.0.0.2"];
    let places = ["a", "b", "c"];
    let mut refused = HashMap::new();
    let balancer = RoundRobin::new(|| std::time::Duration::ZERO);
    for round in 0..4000 {
        let mut some = |from: &[&str]| -> Vec<std::net::IpAddr> {
            from.iter().filter(|_| dice(3) == 0).map(|address| address.parse().unwrap()).collect()
        };
        let (addresses, external, balanced) =
            ([some(&cluster), some(&cluster)], [some(&outer), some(&outer)], [some(&outer), some(&outer)]);
        let mut world = World::default();
        if dice(2) == 0 {
            world.apply(Change::Workload(pod("10.0.0.2")));
        }
        for (number, name) in ["one", "two"].into_iter().enumerate() {
            let endpoint = |last: u64, dice: &mut dyn FnMut(u64) -> u64| {
                let address = if dice(4) == 0 { format!("fd00::{last}") } else { format!("10.0.0.{last}") };
                let mut place = || -> Vec<Arc<str>> {
                    places.iter().filter(|_| dice(3) == 0).map(|p| Arc::from(*p)).collect()
                };
                let (for_zones, for_nodes, node) = (place(), place(), place().pop());
                let ports = [80, 81].into_iter().filter(|_| dice(3) > 0);
                Endpoint {
                    ports: ports.map(|port| PortMap { service: port, target: port + 8000 }).collect(),
                    ready: dice(2) == 0,
                    for_zones,
                    for_nodes,
                    node,
                    ..Endpoint::at(address.parse().unwrap())
                }
            };
            world.apply(Change::Service(Service {
                addresses: addresses[number].clone(),
                external_addresses: external[number].clone(),
                load_balancer_addresses: balanced[number].clone(),
                source_ranges: if dice(3) == 0 { vec!["10.9.0.0/16".parse().unwrap()] } else { Vec::new() },
                ports: if dice(4) == 0 { vec![80] } else { vec![80, 81] },
                endpoints: (0..dice(4)).map(|last| endpoint(last + 1, &mut dice)).collect(),
                affinity_seconds: dice(2) as u32,
                local_only: dice(2) == 0,
                other_proxy: (dice(8) == 0).then(|| "somebody".into()),
                ..Service::bare(ServiceKey::new("shop", name))
            }));
        }
        world.apply(Change::Node(mesh_model::NodeInfo {
            name: "a".into(),
            zone: (dice(3) > 0).then(|| places[dice(3) as usize].into()),
            addresses: Vec::new(),
        }));
        world.stand_on("a");
        world.set_complete();
        let rows = services(&world);
        for address in cluster.iter().chain(&outer) {
            for port in [80, 81, 82] {
                let to = SocketAddr::new(address.parse().unwrap(), port);
                let client = Client { address: "10.0.0.7".parse().unwrap() };
                let early = match route(&world, client, to, &balancer) {
                    Route::Refuse(
                        reason @ (Reason::NoEndpoint | Reason::NoLocalEndpoint | Reason::NoServicePort),
                    ) => Some(reason),
                    _ => None,
                };
                assert_eq!(kernel(&rows, to), early, "round {round}, {to}");
                *refused.entry(early).or_insert(0) += 1;
            }
        }
    }
    println!("{refused:?}");
    assert!(refused.len() == 4 && refused.values().all(|count| *count > 500), "{refused:?}");
}

fn pod(address: &str) -> Workload {
    Workload {
        uid: Uid::new("u"),
        namespace: "shop".into(),
        name: "pod".into(),
        owner: "pod".into(),
        node: "a".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        enrolled: true,
        left_alone: None,
        tunnel: Tunnel::None,
        phase: Phase::Running,
        host_network: false,
    }
}
