#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::{Change, Endpoint, MeshSettings, Phase, Service, ServiceKey, Tunnel};

use super::*;

const OWN: &str = "10.0.0.1";

fn workload(address: &str, enrolled: bool, tunnel: Tunnel) -> Workload {
    Workload {
        uid: Uid::new(&format!("uid-of-{address}-{enrolled}")),
        namespace: "shop".into(),
        name: "pod".into(),
        owner: "pod".into(),
        node: "b".into(),
        identity: "spiffe://lab/ns/shop/sa/pod".parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        enrolled,
        left_alone: None,
        bindings: None,
        tunnel,
        phase: Phase::Running,
        host_network: false,
    }
}

fn service(address: &str, endpoints: &[&str]) -> Change {
    let mut service = Service::bare(ServiceKey::new("shop", address));
    service.addresses = vec![address.parse().unwrap()];
    service.ports = vec![80];
    service.endpoints = endpoints.iter().map(|at| Endpoint::at(at.parse().unwrap())).collect();
    Change::Service(service)
}

fn world() -> World {
    let mut world = World::default();
    world.apply(Change::Workload(workload(OWN, true, Tunnel::Hbone)));
    world.apply(Change::Workload(workload("10.0.0.2", true, Tunnel::Hbone)));
    world.apply(Change::Workload(workload("10.0.0.3", true, Tunnel::None)));
    world.apply(Change::Workload(workload("10.0.0.4", false, Tunnel::None)));
    world.apply(Change::Workload(workload("10.0.0.5", false, Tunnel::Foreign)));
    world.apply(Change::Workload(workload("fd00::2", true, Tunnel::Hbone)));
    world.apply(Change::Workload(workload("10.0.0.6", true, Tunnel::None)));
    world.apply(Change::Workload(workload("10.0.0.6", false, Tunnel::None)));
    world.apply(service("10.96.0.1", &["10.0.0.4", "10.0.0.2"]));
    world.apply(service("10.96.0.2", &["10.0.0.4", "192.0.2.1"]));
    world.apply(service("10.96.0.3", &[]));
    world.set_complete();
    world
}

fn led(world: &World, to: &str) -> bool {
    leads_into_mesh(world, &[OWN.parse().unwrap()], to.parse().unwrap())
}

#[test]
fn what_leads_into_the_mesh_ends_and_the_rest_goes_on() {
    for (to, wanted) in [
        ("10.0.0.2:7000", true),
        ("[::ffff:10.0.0.2]:7000", true),
        ("[fd00::2]:7000", true),
        // Its agent has not said so yet.
        ("10.0.0.3:7000", true),
        ("10.0.0.4:7000", false),
        // Served by another mesh's agent.
        ("10.0.0.5:7000", true),
        // Two pods claim it, and one of them is wanted in the mesh.
        ("10.0.0.6:7000", true),
        ("10.96.0.1:80", true),
        ("10.96.0.2:80", false),
        ("10.96.0.3:80", false),
        ("192.0.2.1:443", false),
        ("10.0.0.1:8080", false),
        ("127.0.0.1:8080", false),
        ("[::1]:8080", false),
    ] {
        assert_eq!(led(&world(), to), wanted, "{to}");
    }
}

#[test]
fn what_the_operator_excludes_goes_on() {
    let mut world = world();
    world.apply(Change::Mesh(MeshSettings {
        excluded_prefixes: vec!["fd00::/64".parse().unwrap()],
        excluded_ports: vec![9000..=9010],
        ..MeshSettings::default()
    }));
    assert!(led(&world, "10.0.0.2:7000"));
    assert!(!led(&world, "10.0.0.2:9005"));
    assert!(!led(&world, "[fd00::2]:7000"));
}

#[test]
fn people_are_told_what_came_of_it_and_nothing_of_nothing() {
    let uid = Uid::new("uid");
    let told = |ended, kept, failed| {
        event(&uid, Found { ended, kept, failed }).map(|event| (event.reason, event.warning))
    };
    assert_eq!(told(0, 0, 0), None);
    assert_eq!(told(2, 0, 0), Some(("PreCaptureSocketsReset".into(), false)));
    assert_eq!(told(0, 3, 0), Some(("PreCaptureSocketsKept".into(), false)));
    assert_eq!(told(2, 0, 1), Some(("PreCaptureSocketsLeft".into(), true)));
}
