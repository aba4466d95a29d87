//! Service rows, and what the hook makes of them, next to what `route` says.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::{ServiceKey16, ServiceState};
use mesh_model::route::{Client, RoundRobin, Route, route};
use mesh_model::{Change, Endpoint, NodeInfo, PortMap, Service, ServiceKey, World};

use super::kernel::{Choice, Kernel};
use super::{Dice, ip, pod};
use crate::kernel::lower::LocalPods;
use crate::kernel::maps::addr;

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
    let kernel = Kernel::of(&world);
    let row = |address: &str, port: u32| {
        kernel.services().get(&ServiceKey16 { addr: addr(ip(address)), port }).map(|state| state.no_endpoint)
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
    let kernel = Kernel::of(&world);
    let row = |address: &str, port: u32| {
        kernel.services().get(&ServiceKey16 { addr: addr(ip(address)), port }).map(|state| state.no_endpoint)
    };
    assert_eq!(row("10.96.0.1", 80), Some(ServiceState::NONE_HERE));
    assert_eq!(
        row("192.0.2.1", 80),
        Some(0),
        "what comes in from outside is subject to no policy of the inside"
    );
    assert_eq!(row("192.0.2.1", 0), None, "at other ports it is somebody else's");
}

#[test]
fn the_kernel_chooses_and_refuses_as_the_agent_would() {
    let mut numbers = Dice(1);
    let mut dice = |sides: u64| numbers.roll(sides);
    let cluster = ["10.96.0.1", "10.96.0.2", "fd00:96::1", "fd00:96::2"];
    let outer = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "10.0.0.2"];
    let places = ["a", "b", "c"];
    let mut seen = HashMap::new();
    let mut kernel = Kernel::new();
    for round in 0..4000 {
        let mut some = |from: &[&str]| -> Vec<IpAddr> {
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
        world.apply(Change::Node(NodeInfo {
            name: "a".into(),
            zone: (dice(3) > 0).then(|| places[dice(3) as usize].into()),
            addresses: Vec::new(),
        }));
        world.stand_on("a");
        world.set_complete();
        kernel.write(&world, &LocalPods::new());
        for address in cluster.iter().chain(&outer) {
            for port in [80, 81, 82] {
                let to = SocketAddr::new(ip(address), port);
                let choice = kernel.tables().choice(to);
                agree(&world, to, &choice).unwrap_or_else(|why| panic!("round {round}, {to}: {why}"));
                *seen.entry(std::mem::discriminant(&choice)).or_insert(0) += 1;
            }
        }
    }
    println!("{:?}", seen.values());
    assert!(seen.len() == 4 && seen.values().all(|count| *count > 500), "{seen:?}");
    // What no world needs any more is gone: sets, too.
    kernel.write(&World::default(), &LocalPods::new());
    assert_eq!(kernel.rows(), [0; 7]);
}

/// Every outcome of `route`, next to what the hook does.
fn agree(world: &World, to: SocketAddr, choice: &Choice) -> Result<(), String> {
    let balancer = RoundRobin::new(|| std::time::Duration::ZERO);
    let mut targets = BTreeSet::new();
    let mut reasons = BTreeSet::new();
    // Each client once: affinity would hold it.
    for client in 1..=12_u8 {
        let client = Client { address: IpAddr::from([10, 7, 0, client]) };
        match route(world, client, to, &balancer) {
            Route::Refuse(reason) => drop(reasons.insert(reason.as_str())),
            Route::Tunnel(hop) | Route::Passthrough(hop) => drop(targets.insert(hop.target)),
        }
    }
    let found = format!("{choice:?} and {targets:?}, {reasons:?}");
    let agrees = match choice {
        Choice::Ask => true,
        Choice::NoService => targets == BTreeSet::from([to]) && reasons.is_empty(),
        Choice::Refused(reason) => targets.is_empty() && reasons == BTreeSet::from([reason.as_str()]),
        Choice::Among(endpoints) => {
            let all: Vec<_> = targets.iter().map(|one| (addr(one.ip()), u32::from(one.port()))).collect();
            let chosen: BTreeSet<_> = endpoints.iter().map(|one| (one.addr, one.port)).map(text).collect();
            reasons.is_empty()
                && chosen == all.into_iter().map(text).collect()
                && endpoints.len() == chosen.len()
        }
    };
    agrees.then_some(()).ok_or(found)
}

fn text((addr, port): (mesh_common::Addr, u32)) -> String {
    format!("{:?}:{port}", addr.octets())
}
