#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::{Tunnel, Uid};
use mesh_xds::delta::Session;
use mesh_xds::proto;

use super::{Hub, Place};
use crate::index::{Captures, Report};
use crate::metrics::Metrics;
use crate::reconcile::Words;
use crate::watch::{Batch, FactChange, facts_of};

fn hub() -> Arc<Hub> {
    let hub = Hub::new(Captures::default(), Metrics::default());
    let pod = "apiVersion: v1\nkind: Pod\n\
        metadata: {name: web, namespace: shop, uid: u1, labels: {weft.dev/capture: enabled}}\n\
        spec: {nodeName: one, containers: [{name: main, image: none}]}\n\
        status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}\n";
    let changes = facts_of(pod).unwrap().into_iter().map(FactChange::Set).collect();
    hub.apply(Batch { changes, rows: Vec::new(), partial: false });
    hub.loaded();
    hub
}

fn join(hub: &Arc<Hub>, node: &str) -> (Place, Session) {
    hub.join(&proto::Hello { node: node.into(), ..Default::default() }).unwrap()
}

/// Says everything there is to say, and hears that it is applied.
fn settle((place, session): &mut (Place, Session)) {
    while let Some(delta) = place.next(session).unwrap() {
        session.ack(delta.nonce).unwrap();
    }
}

fn tunnel(hub: &Hub) -> Tunnel {
    hub.state().index.workload(&Uid::new("u1")).unwrap().tunnel
}

fn others(known: &[(&str, &[&str])]) -> BTreeMap<String, HashSet<Uid>> {
    let uids = |uids: &[&str]| uids.iter().map(|uid| Uid::new(uid)).collect();
    known.iter().map(|(name, known)| ((*name).to_owned(), uids(known))).collect()
}

#[test]
fn a_workload_is_released_when_every_live_replica_says_that_its_agents_know() {
    let hub = hub();
    let mut one = join(&hub, "one");
    settle(&mut one);
    hub.report("one", vec![(Uid::new("u1"), Report::Captured, String::new())]);
    settle(&mut one);
    hub.set_others(others(&[("b", &[]), ("c", &["u1"])]));
    hub.report("one", vec![(Uid::new("u1"), Report::Leaving, String::new())]);
    settle(&mut one);
    assert_eq!(hub.node_rows()[0].words.leaving, [Uid::new("u1")]);
    assert!(one.0.released().is_empty(), "b's agents do not know");
    hub.set_others(others(&[("b", &["u1"]), ("c", &["u1"])]));
    assert_eq!(one.0.released(), [Uid::new("u1")]);
    assert!(hub.node_rows()[0].words.leaving.is_empty());
}

#[test]
fn a_replica_that_dies_is_waited_for_no_more() {
    let hub = hub();
    let mut one = join(&hub, "one");
    hub.report("one", vec![(Uid::new("u1"), Report::Captured, String::new())]);
    hub.set_others(others(&[("b", &[])]));
    hub.report("one", vec![(Uid::new("u1"), Report::Leaving, String::new())]);
    settle(&mut one);
    assert!(one.0.released().is_empty());
    hub.set_others(others(&[]));
    assert_eq!(one.0.released(), [Uid::new("u1")]);
}

#[test]
fn what_another_replica_was_told_counts_here_and_is_acknowledged_when_all_agents_here_know() {
    let hub = hub();
    let mut two = join(&hub, "two");
    settle(&mut two);
    let uids = vec![Uid::new("u1")];
    hub.adopt("one", &Words { captured: uids.clone(), ..Words::default() });
    assert_eq!(tunnel(&hub), Tunnel::Hbone);
    settle(&mut two);
    hub.adopt("one", &Words { withdrawn: uids.clone(), leaving: uids.clone(), ..Words::default() });
    assert_eq!(tunnel(&hub), Tunnel::Withdrawn);
    assert!(hub.acknowledged().is_empty());
    settle(&mut two);
    assert_eq!(hub.acknowledged(), uids);
    // Released there: nobody asks any more.
    hub.adopt("one", &Words { withdrawn: uids, ..Words::default() });
    assert!(hub.acknowledged().is_empty());
}

#[test]
fn a_replica_that_never_heard_of_a_capture_publishes_its_withdrawal_all_the_same() {
    let hub = hub();
    hub.adopt("one", &Words { withdrawn: vec![Uid::new("u1")], ..Words::default() });
    assert_eq!(tunnel(&hub), Tunnel::Withdrawn, "agents that have it as captured must hear that it is not");
    assert!(hub.node_rows().is_empty(), "its agent is elsewhere");
    // Of another node's pod nobody's word counts.
    hub.adopt("two", &Words { captured: vec![Uid::new("u1")], ..Words::default() });
    assert_eq!(tunnel(&hub), Tunnel::Withdrawn);
}

#[test]
fn a_node_that_left_and_comes_back_has_to_say_so_again() {
    let hub = hub();
    let place = join(&hub, "one");
    hub.left("one", true);
    assert_eq!(hub.nodes_left(), ["one"]);
    drop(place);
    assert!(hub.node_rows()[0].left && !hub.node_rows()[0].connected);
    let _place = join(&hub, "one");
    assert!(hub.nodes_left().is_empty());
}

#[test]
fn a_pod_without_an_agent_is_told_of_unless_another_replica_has_its_agent() {
    let (hub, start) = (hub(), Instant::now());
    let mut told = hub.all_told();
    let mut look = |seconds: u64| {
        hub.look_for_agentless(start + Duration::from_secs(seconds));
        told.try_recv().ok().map(|told| (told.node, told.reason))
    };
    let word = Some((String::new(), "NoAgentOnNode".to_owned()));
    hub.set_served_elsewhere(["one".to_owned()].into());
    assert_eq!((look(0), look(100)), (None, None));
    hub.set_served_elsewhere(["two".to_owned()].into());
    assert_eq!((look(100), look(131), look(200)), (None, word, None));
    let standing = hub.standing();
    assert!(standing.len() == 1 && standing[0].reason == "NoAgentOnNode", "{standing:?}");
    let place = join(&hub, "one");
    assert_eq!(look(201), None);
    assert!(hub.standing().is_empty());
    drop(place);
    hub.report("one", vec![(Uid::new("u1"), Report::Captured, String::new())]);
    assert_eq!((look(202), look(300)), (None, None), "it is refused, not outside");
}
