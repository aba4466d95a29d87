#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::world::tests::workload;
use crate::{Change, Endpoint, NodeInfo, PortMap, Service, Tunnel, Uid};

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

fn still() -> RoundRobin {
    RoundRobin::new(|| Duration::ZERO)
}

fn decide(world: &World, destination: &str) -> Route {
    through(world, "10.0.0.7", destination, &still())
}

fn through(world: &World, client: &str, destination: &str, balancer: &RoundRobin) -> Route {
    route(world, Client { address: client.parse().unwrap() }, destination.parse().unwrap(), balancer)
}

/// Where so many connections go, or why they do not.
fn targets(
    world: &World,
    client: &str,
    destination: &str,
    balancer: &RoundRobin,
    count: usize,
) -> Vec<String> {
    let target = |_| match through(world, client, destination, balancer) {
        Route::Tunnel(hop) | Route::Passthrough(hop) => hop.target.to_string(),
        Route::Refuse(reason) => reason.to_string(),
    };
    (0..count).map(target).collect()
}

/// `shop/web` of that world, changed.
fn changed(world: &World, change: impl FnOnce(&mut Service)) -> World {
    let mut world = world.clone();
    let mut service = Service::clone(world.services().next().unwrap());
    change(&mut service);
    world.apply(Change::Service(service));
    world
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
    let targets = targets(&world, "10.0.0.7", "10.96.0.1:80", &still(), 4);
    assert_eq!(targets, ["10.0.0.1:8080", "10.0.0.2:8081", "10.0.0.1:8080", "10.0.0.2:8081"]);
}

#[test]
fn what_a_service_cannot_serve_is_refused() {
    let world = world(vec![endpoint("10.0.0.1", 8080, true)]);
    assert_eq!(decide(&world, "10.96.0.1:81"), Route::Refuse(Reason::NoServicePort));
    assert_eq!(decide(&world, "[fd00::1]:80"), Route::Refuse(Reason::NoEndpoint));
}

#[test]
fn a_client_with_affinity_stays_with_its_endpoint_while_that_may_be_chosen() {
    let ends = |ready: bool| {
        vec![
            endpoint("10.0.0.1", 8080, true),
            endpoint("10.0.0.2", 8080, ready),
            endpoint("10.0.0.3", 8080, true),
        ]
    };
    let sticky = |endpoints| changed(&world(endpoints), |service| service.affinity_seconds = 10);
    let now = Arc::new(AtomicU64::new(0));
    let clock = now.clone();
    let balancer = RoundRobin::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
    let world = sticky(ends(true));
    let go = |world: &World, client: &str| targets(world, client, "10.96.0.1:80", &balancer, 2);
    assert_eq!(go(&world, "10.1.0.1"), ["10.0.0.1:8080"; 2]);
    assert_eq!(go(&world, "10.1.0.2"), ["10.0.0.2:8080"; 2]);
    assert_eq!(go(&world, "::ffff:10.1.0.2"), ["10.0.0.2:8080"; 2]);
    // Its endpoint goes: chosen anew, and that is kept, also when the first one is back.
    assert_eq!(go(&sticky(ends(false)), "10.1.0.2"), ["10.0.0.1:8080"; 2]);
    assert_eq!(go(&world, "10.1.0.2"), ["10.0.0.1:8080"; 2]);
    assert_eq!(go(&world, "10.1.0.3"), ["10.0.0.1:8080"; 2], "the next turn");
    now.store(10, Ordering::Relaxed);
    assert_eq!(go(&world, "10.1.0.1"), ["10.0.0.2:8080"; 2], "it has been silent for so long");
}

#[test]
fn a_local_service_is_served_by_the_nodes_own_endpoints_at_its_cluster_addresses_alone() {
    let mut near = endpoint("10.0.0.1", 8080, true);
    near.node = Some("a".into());
    let local = changed(&world(vec![near, endpoint("10.0.0.2", 8080, true)]), |service| {
        service.local_only = true;
        service.external_addresses = vec!["192.0.2.1".parse().unwrap()];
    });
    let mut here = local.clone();
    here.stand_on("a");
    assert_eq!(targets(&here, "10.0.0.7", "10.96.0.1:80", &still(), 2), ["10.0.0.1:8080"; 2]);
    assert_eq!(targets(&here, "10.0.0.7", "192.0.2.1:80", &still(), 2), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let mut there = local.clone();
    there.stand_on("b");
    assert_eq!(decide(&there, "10.96.0.1:80"), Route::Refuse(Reason::NoLocalEndpoint));
    assert_eq!(targets(&there, "10.0.0.7", "192.0.2.1:80", &still(), 1), ["10.0.0.1:8080"]);
}

#[test]
fn hints_are_followed_as_soon_as_the_nodes_zone_is_known_and_no_longer() {
    let mut ends = vec![endpoint("10.0.0.1", 8080, true), endpoint("10.0.0.2", 8080, true)];
    ends[0].for_zones = vec!["west".into()];
    ends[1].for_zones = vec!["east".into()];
    let mut world = world(ends);
    world.stand_on("a");
    let balancer = still();
    let both = ["10.0.0.1:8080", "10.0.0.2:8080"];
    assert_eq!(targets(&world, "10.0.0.7", "10.96.0.1:80", &balancer, 2), both);
    let node = |name: &str, zone: Option<&str>| NodeInfo {
        name: name.into(),
        zone: zone.map(Arc::from),
        addresses: Vec::new(),
    };
    world.apply(Change::Node(node("b", Some("west"))));
    assert_eq!(targets(&world, "10.0.0.7", "10.96.0.1:80", &balancer, 2), both, "another node's zone");
    world.apply(Change::Node(node("a", Some("east"))));
    assert_eq!(targets(&world, "10.0.0.7", "10.96.0.1:80", &balancer, 2), ["10.0.0.2:8080"; 2]);
    world.apply(Change::Node(node("a", Some("west"))));
    assert_eq!(targets(&world, "10.0.0.7", "10.96.0.1:80", &balancer, 2), ["10.0.0.1:8080"; 2]);
    world.apply(Change::NodeRemoved("a".into()));
    assert_eq!(targets(&world, "10.0.0.7", "10.96.0.1:80", &balancer, 2), both);
}

#[test]
fn an_outer_address_is_the_services_at_its_own_ports_and_never_a_pods() {
    let mut world = changed(&world(vec![endpoint("10.0.0.1", 8080, true)]), |service| {
        service.external_addresses = vec!["192.0.2.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        service.load_balancer_addresses = vec!["198.51.100.1".parse().unwrap()];
    });
    let target = |world: &World, to: &str| targets(world, "10.0.0.7", to, &still(), 1).remove(0);
    assert_eq!(target(&world, "192.0.2.1:80"), "10.0.0.1:8080");
    assert_eq!(target(&world, "198.51.100.1:80"), "10.0.0.1:8080");
    assert_eq!(target(&world, "[::ffff:198.51.100.1]:80"), "10.0.0.1:8080");
    assert_eq!(target(&world, "192.0.2.1:81"), "192.0.2.1:81", "somebody else's");
    assert_eq!(target(&world, "10.0.0.2:80"), "10.0.0.2:80", "a pod's own address is the pod's");
    world.apply(Change::WorkloadRemoved(Uid::new("plain")));
    assert_eq!(target(&world, "10.0.0.2:80"), "10.0.0.1:8080");
    // Another Service at another port of the same address.
    let mut other = Service::bare(ServiceKey::new("shop", "other"));
    other.ports = vec![81];
    other.external_addresses = vec!["192.0.2.1".parse().unwrap()];
    world.apply(Change::Service(other));
    assert_eq!(target(&world, "192.0.2.1:80"), "10.0.0.1:8080");
    assert_eq!(target(&world, "192.0.2.1:81"), "no_endpoint");
}

#[test]
fn source_ranges_are_about_the_load_balancers_addresses_of_their_family() {
    let world =
        changed(&world(vec![endpoint("10.0.0.1", 8080, true), endpoint("fd00::9", 1, true)]), |service| {
            service.external_addresses = vec!["192.0.2.1".parse().unwrap()];
            service.load_balancer_addresses =
                ["198.51.100.1", "2001:db8::1"].map(|address| address.parse().unwrap()).to_vec();
            service.source_ranges =
                ["10.1.0.0/16", "10.2.0.0/16"].map(|range| range.parse().unwrap()).to_vec();
        });
    for (client, to, wanted) in [
        ("10.1.0.1", "198.51.100.1:80", "10.0.0.1:8080"),
        ("10.2.9.9", "198.51.100.1:80", "10.0.0.1:8080"),
        ("::ffff:10.2.9.9", "198.51.100.1:80", "10.0.0.1:8080"),
        ("10.3.0.1", "198.51.100.1:80", "source_range"),
        ("10.3.0.1", "192.0.2.1:80", "10.0.0.1:8080"),
        ("10.3.0.1", "10.96.0.1:80", "10.0.0.1:8080"),
        ("fd00::7", "[2001:db8::1]:80", "[fd00::9]:1"),
    ] {
        assert_eq!(targets(&world, client, to, &still(), 1), [wanted], "{client} to {to}");
    }
}

#[test]
fn another_proxys_service_is_dialled_as_it_is_unless_it_leads_into_the_mesh() {
    let theirs = |address: &str| {
        changed(&world(vec![endpoint("192.0.2.9", 1, false), endpoint(address, 1, false)]), |service| {
            service.other_proxy = Some("somebody".into());
        })
    };
    let Route::Passthrough(hop) = decide(&theirs("10.0.0.2"), "10.96.0.1:81") else { panic!() };
    assert_eq!((hop.target.to_string(), hop.workload), ("10.96.0.1:81".to_owned(), None));
    assert_eq!(hop.service, Some(ServiceKey::new("shop", "web")));
    assert_eq!(decide(&theirs("10.0.0.1"), "10.96.0.1:80"), Route::Refuse(Reason::OtherProxy));
    let mut contested = theirs("10.0.0.2");
    contested.apply(Change::Workload(workload("another", "10.0.0.2", Tunnel::None)));
    assert_eq!(decide(&contested, "10.96.0.1:80"), Route::Refuse(Reason::OtherProxy));
}

#[test]
fn an_endpoint_that_is_a_service_itself_is_refused_and_outside_ones_are_dialled() {
    assert_eq!(
        decide(&world(vec![endpoint("10.96.0.1", 80, true)]), "10.96.0.1:80"),
        Route::Refuse(Reason::ServiceLoop),
        "dialled as it is, kube-proxy would choose, in plain text"
    );
    let outside = decide(&world(vec![endpoint("192.0.2.9", 5432, true)]), "10.96.0.1:80");
    assert!(matches!(outside, Route::Passthrough(hop) if hop.workload.is_none()));
}

#[test]
fn a_service_with_a_thousand_endpoints_is_sorted_out_once() {
    let ends = (0..1000).map(|n| endpoint(&format!("10.1.{}.{}", n / 250, n % 250), 8080, true)).collect();
    let world = changed(&world(ends), |service| service.affinity_seconds = 60);
    let served = world.service_at("10.96.0.1".parse().unwrap()).unwrap();
    let question = Question { port: 80, ipv6: false, scope: Scope::Cluster };
    let first = served.candidates(question).unwrap().as_ptr();
    assert_eq!(served.candidates(question).unwrap().len(), 1000);
    assert_eq!(served.candidates(question).unwrap().as_ptr(), first, "the same memory");
    // The copy that the next update begins with has it, too.
    let copy = world.clone();
    let again = copy.service_at("10.96.0.1".parse().unwrap()).unwrap();
    assert_eq!(again.candidates(question).unwrap().as_ptr(), first);
    let balancer = still();
    let start = std::time::Instant::now();
    for n in 0..1000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0a02_0000 + n).to_string();
        assert_eq!(targets(&world, &client, "10.96.0.1:80", &balancer, 2).len(), 2);
    }
    println!("1,000 endpoints, affinity: {:?} a decision", start.elapsed() / 2000);
}
