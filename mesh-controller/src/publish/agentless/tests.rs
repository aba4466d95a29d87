#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::{Phase, Tunnel};

use super::*;

fn pod(uid: &str, node: &str) -> Workload {
    Workload {
        uid: Uid::new(uid),
        namespace: "shop".into(),
        name: uid.into(),
        owner: uid.into(),
        node: node.into(),
        identity: "spiffe://lab/ns/shop/sa/pod".parse().unwrap(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        enrolled: true,
        left_alone: None,
        bindings: None,
        tunnel: Tunnel::None,
        phase: Phase::Running,
        host_network: false,
    }
}

#[test]
fn a_pod_is_told_of_once_when_its_node_has_had_no_agent_for_long() {
    let (mut agentless, start) = (Agentless::default(), Instant::now());
    let pods = [pod("u1", "one"), pod("u2", "two")];
    let look = |agentless: &mut Agentless, served: &str, seconds: u64| {
        let now = start + Duration::from_secs(seconds);
        let told = agentless.look(pods.iter(), |node| node == served, now);
        told.into_iter().map(|told| told.uid.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert!(look(&mut agentless, "two", 0).is_empty());
    assert!(look(&mut agentless, "two", 29).is_empty());
    assert_eq!(look(&mut agentless, "two", 30), ["u1"]);
    assert!(look(&mut agentless, "two", 300).is_empty());
    // Its agent comes and goes again.
    assert!(look(&mut agentless, "one", 310).is_empty());
    assert_eq!(look(&mut agentless, "one", 340), ["u2"]);
    assert!(look(&mut agentless, "two", 341).is_empty());
    assert_eq!(look(&mut agentless, "two", 371), ["u1"]);
    // Another replica has both.
    agentless.served_elsewhere = ["one".to_owned(), "two".to_owned()].into();
    assert!(look(&mut agentless, "", 400).is_empty());
    assert!(look(&mut agentless, "", 500).is_empty());
}
