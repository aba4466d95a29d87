//! What becomes of a Service on its way to the agents.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::ServiceKey;

use super::{World, pod, service};

fn slice(name: &str, labels: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web{labels}}}}}\n\
         endpoints: [{endpoints}]\nports: [{ports}]\n"
    )
}

/// `address` or `address!` (not ready) of each endpoint.
fn ready(world: &World) -> Vec<String> {
    let service = &world.services[&ServiceKey::new("shop", "web")];
    let word = |endpoint: &mesh_model::Endpoint| {
        format!("{}{}", endpoint.address, if endpoint.ready { "" } else { "!" })
    };
    service.endpoints.iter().map(word).collect()
}

fn terminating(number: usize, status: &str) -> String {
    pod(number, "", status).replace(
        &format!("uid: u{number},"),
        &format!("uid: u{number}, deletionTimestamp: \"2026-01-01T00:00:00Z\","),
    )
}

const READY: &str = "conditions: [{type: Ready, status: 'True'}]";
const UNREADY: &str = "conditions: [{type: Ready, status: 'False'}]";

#[test]
fn pods_that_end_serve_on_while_they_are_ready_and_unready_ones_where_that_is_wanted() {
    let pods = pod(1, "", READY)
        + &pod(2, "", UNREADY)
        + &terminating(3, READY)
        + &terminating(4, UNREADY)
        + &pod(5, "", READY).replace("Running", "Succeeded");
    let mut world = World::of(&(service("ports: [{port: 80}]") + &pods));
    assert_eq!(ready(&world), ["10.0.0.1", "10.0.0.3!"]);
    world.set(&service("publishNotReadyAddresses: true, ports: [{port: 80}]"));
    assert_eq!(ready(&world), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn slices_say_who_is_ready_and_a_pod_that_has_ended_since_is_not() {
    let all = "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}, \
               {addresses: [10.0.0.2], conditions: {ready: false}}, \
               {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}, \
               {addresses: [10.0.0.4], conditions: {ready: true, terminating: true}}";
    let slice = slice("a", "", "{name: http, port: 8080}", all);
    let ports = "ports: [{name: http, port: 80}]";
    let mut world = World::of(&(service(ports) + &slice + &pod(1, "", READY)));
    assert_eq!(ready(&world), ["10.0.0.1", "10.0.0.3!", "10.0.0.4"]);
    world.set(&terminating(1, READY));
    assert_eq!(ready(&world), ["10.0.0.1!", "10.0.0.3!", "10.0.0.4"], "the slice is older than that");
    world.set(&service(&format!("publishNotReadyAddresses: true, {ports}")));
    assert_eq!(ready(&world), ["10.0.0.1", "10.0.0.3!", "10.0.0.4"]);
}

#[test]
fn each_slice_has_target_ports_of_its_own_and_an_address_may_be_in_several() {
    let ports =
        "ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: admin}]";
    let world = World::of(
        &(service(ports)
            + &slice("a", "", "{name: http, port: 8080}, {name: admin, port: 9}", "{addresses: [10.0.0.1]}")
            + &slice("b", "", "{name: http, port: 8081}", "{addresses: [10.0.0.2]}")
            + &slice(
                "c",
                "",
                "{name: http, port: 8080}, {name: admin, port: 10}",
                "{addresses: [10.0.0.1]}",
            )),
    );
    assert_eq!(world.endpoints(), ["10.0.0.1:80>8080,81>9", "10.0.0.2:80>8081", "10.0.0.1:81>10"]);
}

#[test]
fn an_endpoints_node_is_told_where_it_makes_a_difference_and_its_hints_always() {
    let hinted = "{addresses: [10.0.0.1], nodeName: one, hints: {forZones: [{name: east}]}}";
    let slice = slice("a", "", "{name: '', port: 8080}", hinted);
    let mut world = World::of(&(service("ports: [{port: 80}]") + &slice));
    let endpoint = |world: &World| world.services[&ServiceKey::new("shop", "web")].endpoints[0].clone();
    assert_eq!((endpoint(&world).node, &*endpoint(&world).for_zones[0]), (None, "east"));
    world.set(&service("internalTrafficPolicy: Local, ports: [{port: 80}]"));
    assert_eq!(endpoint(&world).node.as_deref(), Some("one"));
    let by_selector =
        World::of(&(service("internalTrafficPolicy: Local, ports: [{port: 80}]") + &pod(1, "", "")));
    assert_eq!(endpoint(&by_selector).node.as_deref(), Some("one"));
}

#[test]
fn another_proxys_service_names_all_who_may_be_behind_it_and_its_slices_are_nobody_elses() {
    let label = ", service.kubernetes.io/service-proxy-name: somebody";
    let all = "{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}";
    let slice = slice("a", label, "{name: '', port: 8080}", all);
    let world = World::of(&(service("ports: [{port: 80}]") + &slice + &pod(1, "", "")));
    assert!(ready(&world).is_empty(), "kube-proxy does not see the slice, and it is one");
    let theirs = service("ports: [{port: 80}]").replace(
        "namespace: shop}",
        &format!("namespace: shop, labels: {{{}}}}}", label.trim_start_matches(", ")),
    );
    let world = World::of(&(theirs + &slice));
    assert_eq!(ready(&world), ["10.0.0.1", "10.0.0.2!"]);
}
