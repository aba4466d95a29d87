#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{Identity, Phase};

pub(crate) fn workload(name: &str, address: &str, tunnel: Tunnel) -> Workload {
    Workload {
        uid: Uid::new(name),
        namespace: "shop".into(),
        name: name.into(),
        owner: name.into(),
        node: "a".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/default".parse::<Identity>().unwrap(),
        addresses: vec![address.parse().unwrap()],
        enrolled: true,
        left_alone: None,
        tunnel,
        phase: Phase::Running,
        host_network: false,
        bindings: None,
    }
}

#[test]
fn a_controller_that_forgot_does_not_turn_a_tunnel_into_plaintext() {
    let mut world = World::default();
    world.apply(Change::Workload(workload("cart", "10.0.0.1", Tunnel::Hbone)));
    world.apply(Change::Workload(workload("cart", "10.0.0.1", Tunnel::None)));
    assert_eq!(world.workload(&Uid::new("cart")).unwrap().tunnel, Tunnel::Hbone);
    world.apply(Change::Workload(workload("cart", "10.0.0.1", Tunnel::Withdrawn)));
    assert_eq!(world.workload(&Uid::new("cart")).unwrap().tunnel, Tunnel::Withdrawn);
}

#[test]
fn an_address_that_two_pods_claim_is_nobodys_until_one_lets_go() {
    let mut world = World::default();
    let address = "10.0.0.1".parse().unwrap();
    world.apply(Change::Workload(workload("old", "10.0.0.1", Tunnel::Hbone)));
    world.apply(Change::Workload(workload("new", "10.0.0.1", Tunnel::None)));
    assert!(world.workload_at(address).is_none() && world.is_contested(address));
    world.apply(Change::WorkloadRemoved(Uid::new("old")));
    assert_eq!(&*world.workload_at(address).unwrap().name, "new");
    assert!(!world.is_contested(address));
}

#[test]
fn a_finished_pod_owns_no_address() {
    let mut world = World::default();
    let mut done = workload("job", "10.0.0.1", Tunnel::None);
    done.phase = Phase::Finished;
    world.apply(Change::Workload(done));
    assert!(world.workload_at("10.0.0.1".parse().unwrap()).is_none());
}

#[test]
fn a_service_address_that_two_claim_is_the_firsts_by_name_and_then_the_others() {
    let service = |name: &str| Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![80],
        ..Service::bare(ServiceKey::new("shop", name))
    };
    let holder = |world: &World| {
        world.service_at("10.96.0.1".parse().unwrap()).map(|served| served.service().key.name.to_string())
    };
    for first in ["a", "b"] {
        let mut world = World::default();
        world.apply(Change::Service(service(first)));
        world.apply(Change::Service(service(if first == "a" { "b" } else { "a" })));
        assert_eq!(holder(&world).as_deref(), Some("a"), "{first} came first");
        world.apply(Change::ServiceRemoved(ServiceKey::new("shop", "a")));
        assert_eq!(holder(&world).as_deref(), Some("b"), "never nobody's, which would be plain text");
        world.apply(Change::ServiceRemoved(ServiceKey::new("shop", "b")));
        assert_eq!(holder(&world), None);
    }
}
