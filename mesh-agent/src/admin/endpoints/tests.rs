#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::IpAddr;

use mesh_model::{Change, NodeInfo, PortMap};

use super::*;

fn endpoint(address: &str, ready: bool) -> Endpoint {
    let ports = vec![PortMap { service: 80, target: 8080 }];
    Endpoint { ready, ports, ..Endpoint::at(address.parse::<IpAddr>().unwrap()) }
}

fn world(services: impl IntoIterator<Item = Service>) -> World {
    let mut world = World::default();
    world.stand_on("a");
    world.apply(Change::Node(NodeInfo { name: "a".into(), zone: Some("z1".into()), addresses: Vec::new() }));
    services.into_iter().for_each(|service| world.apply(Change::Service(service)));
    world.set_complete();
    world
}

fn service(name: &str, endpoints: Vec<Endpoint>) -> Service {
    Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![80],
        endpoints,
        ..Service::bare(ServiceKey::new("shop", name))
    }
}

fn chosen(choices: &Choices) -> Vec<(String, Option<String>)> {
    let address = |row: &ChoiceRow| row.address.map(|address| address.to_string()).unwrap_or_default();
    choices.endpoints.iter().map(|row| (address(row), row.why.clone())).collect()
}

#[test]
fn what_is_not_ready_is_not_chosen_while_others_are() {
    let world = world([service("web", vec![endpoint("10.0.0.1", true), endpoint("10.0.0.2", false)])]);
    let choices = choices(&world, "a", None, None);
    assert_eq!(
        chosen(&choices),
        [("10.0.0.1:8080".into(), None), ("10.0.0.2:8080".into(), Some("not ready, and others are".into()))]
    );
    assert_eq!(choices.zone.as_deref(), Some("z1"));
}

#[test]
fn hints_and_local_policies_say_why() {
    let hinted =
        |address: &str, zone: &str| Endpoint { for_zones: vec![zone.into()], ..endpoint(address, true) };
    let local = Service {
        local_only: true,
        ..service("local", vec![Endpoint { node: Some("b".into()), ..endpoint("10.0.0.3", true) }])
    };
    let world = world([service("web", vec![hinted("10.0.0.1", "z1"), hinted("10.0.0.2", "z2")]), local]);
    let choices = choices(&world, "a", None, None);
    assert_eq!(
        chosen(&choices),
        [
            ("10.0.0.3:8080".into(), Some("no_local_endpoint".into())),
            ("10.0.0.1:8080".into(), None),
            ("10.0.0.2:8080".into(), Some("hinted to other zones or nodes".into())),
        ]
    );
    assert_eq!(choices.endpoints[0].node.as_deref(), Some("b"));
}

#[test]
fn one_service_is_asked_for_and_one_without_endpoints_has_a_row() {
    let world = world([service("web", vec![endpoint("10.0.0.1", true)]), service("empty", Vec::new())]);
    let key = ServiceKey::new("shop", "empty");
    assert_eq!(
        chosen(&choices(&world, "a", Some(&key), None)),
        [(String::new(), Some("no_endpoint".into()))]
    );
    assert!(choices(&world, "a", None, Some("other")).endpoints.is_empty());
}
