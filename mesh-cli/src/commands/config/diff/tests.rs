#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn agent() -> Value {
    json!({
        "settings": [{"name": "kubelet-port", "value": "10250", "from": "default"}],
        "node_info": {"name": "a", "zone": "z1", "addresses": []},
        "workloads": [{"uid": "11", "namespace": "shop", "name": "web-0", "tunnel": "hbone"}],
        "services": [{"namespace": "shop", "name": "web", "endpoints": [{"workload": "11", "ready": true}]}],
        "policies": [],
    })
}

/// What `meshctl --controller policy dump` writes of the same world.
fn controller() -> Value {
    json!({
        "workloads": [{"uid": "11", "namespace": "shop", "name": "web-0", "tunnel": "hbone", "labels": {"app": "web"}}],
        // By the selector: one of them is not ready, and no agent has it among a Service's endpoints.
        "services": [{"namespace": "shop", "name": "web", "pods": ["11", "22"]}],
        "policies": [],
        "observed": [], "unobserved": 0,
    })
}

#[test]
fn a_controllers_dump_is_compared_by_what_a_controller_knows() {
    let (agent, controller) = (Items::of_dump(&agent()), Items::of_dump(&controller()));
    assert_eq!(controller.changes(&agent), []);
    assert_eq!(agent.changes(&controller), []);
}

#[test]
fn a_service_that_one_of_both_does_not_have_is_named() {
    let mut other = controller();
    other["services"][0]["name"] = json!("later");
    let changes = Items::of_dump(&other).changes(&Items::of_dump(&agent()));
    let said: Vec<_> = changes.iter().map(|one| (one.kind, one.name.as_str(), one.change)).collect();
    assert_eq!(said, [("service", "shop/later", How::OnlyLeft), ("service", "shop/web", How::OnlyRight)]);
}
