//! Promise: any number of replicas of the controller are one controller to agents; one of them writes status, and when it
//! is lost another does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use controllers::{Home, SYSTEM, eventually, object, so};
use mesh_model::Tunnel;
use serde_json::json;

#[test]
fn what_an_agent_says_to_one_replica_reaches_the_agents_of_another_and_of_the_next() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": "enabled"}));
    let (a, b) = (home.ready_controller("a"), home.ready_controller("b"));
    let (one, two) = (home.agent("one", &a), home.agent("two", &b));
    two.is_enrolled(&web, true);
    one.captured(&web);
    two.has_tunnel(&web, Tunnel::Hbone);
    let state = eventually("the NodeState", || {
        let state = home.node_state("one");
        let is = state["captured"] == json!([web]) && state["conditions"][0]["status"] == "True";
        if is { Ok(state) } else { Err(state.to_string()) }
    });
    assert_eq!(state["replica"], "a");
    assert!(state["agentVersion"].is_string() && state["lastSeen"].is_string(), "{state}");
    // Nothing is kept on a disk: the next controller knows it from the NodeState.
    a.stop();
    b.stop();
    let c = home.ready_controller("c");
    let two = home.agent("two", &c);
    two.has_tunnel(&web, Tunnel::Hbone);
}

#[test]
fn a_workload_is_released_when_the_agents_of_all_replicas_know_that_it_is_withdrawn() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": "enabled"}));
    let (a, b) = (home.ready_controller("a"), home.ready_controller("b"));
    let (one, two) = (home.agent("one", &a), home.agent("two", &b));
    one.captured(&web);
    two.has_tunnel(&web, Tunnel::Hbone);
    one.has_tunnel(&web, Tunnel::Hbone);
    two.deaf(true);
    one.leaving(&web);
    one.has_tunnel(&web, Tunnel::Withdrawn);
    eventually("the other replica to be asked", || {
        let state = home.node_state("one");
        so(state["leaving"] == json!([web]), state)
    });
    assert!(!one.is_released(&web), "an agent of the other replica may still dial it by tunnel");
    two.deaf(false);
    two.has_tunnel(&web, Tunnel::Withdrawn);
    eventually("the release", || so(one.is_released(&web), home.node_state("one")));
    eventually("nobody to be asked any more", || {
        let state = home.node_state("one");
        so(state["leaving"].is_null(), state)
    });
}

#[test]
fn a_lost_leader_is_replaced_and_a_dead_replica_holds_up_no_release() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": "enabled"}));
    let a = home.ready_controller("a");
    eventually("a to lead", || so(a.leads(), a.log()));
    let b = home.ready_controller("b");
    assert!(!b.leads());
    let one = home.agent("one", &b);
    one.captured(&web);
    one.has_tunnel(&web, Tunnel::Hbone);
    // A dead one says nothing, so it has acknowledged nothing either.
    a.kill();
    one.leaving(&web);
    eventually("b to lead", || so(b.leads(), b.log()));
    eventually("the release", || so(one.is_released(&web), b.log()));
    home.apply(controllers::mesh_config(json!({"kubeletPort": 10250})));
    eventually("b to write status", || so(home.accepted().0 == "True", home.accepted()));
    // One that stops gives both Leases back at once.
    let c = home.ready_controller("c");
    b.stop();
    eventually("c to lead", || so(c.leads(), c.log()));
    let mut lease = object("coordination.k8s.io/v1", "Lease", "weft-replica-b");
    lease["metadata"]["namespace"] = SYSTEM.into();
    // Given back at once; who could not is taken for gone by its silence.
    eventually("b's Lease to go", || so(home.get(&lease).is_none(), home.get(&lease)));
    lease["metadata"]["name"] = "weft-controller".into();
    let lease = home.get(&lease).unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "c");
    assert!(lease["spec"]["leaseTransitions"].as_i64().unwrap() >= 2, "{lease}");
}

#[test]
fn an_agent_that_moves_takes_its_node_along_and_the_state_of_a_node_that_is_gone_goes() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": "enabled"}));
    let (a, b) = (home.ready_controller("a"), home.ready_controller("b"));
    let (one, two) = (home.agent("one", &a), home.agent("two", &a));
    one.captured(&web);
    two.has_tunnel(&web, Tunnel::Hbone);
    drop(one);
    eventually("the node to count as not connected", || {
        let state = home.node_state("one");
        so(state["conditions"][0]["status"] == "False" && state["captured"] == json!([web]), state)
    });
    two.has_tunnel(&web, Tunnel::Hbone);
    let one = home.agent("one", &b);
    one.captured(&web);
    one.leaving(&web);
    two.has_tunnel(&web, Tunnel::Withdrawn);
    let state = eventually("b to own the node", || {
        let state = home.node_state("one");
        if state["replica"] == "b" && state["withdrawn"] == json!([web]) {
            Ok(state)
        } else {
            Err(state.to_string())
        }
    });
    assert_eq!(state["conditions"][0]["status"], "True");
    drop(one);
    home.delete(&object("v1", "Node", "one"));
    let node_state = object("weft.dev/v1alpha1", "NodeState", "one");
    eventually("the NodeState to go", || so(home.get(&node_state).is_none(), home.get(&node_state)));
    assert!(home.get(&object("weft.dev/v1alpha1", "NodeState", "two")).is_some());
}
