#![allow(clippy::unwrap_used, reason = "tests")]

use mesh_model::{Change, Endpoint, PortMap, Service, ServiceKey};

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
