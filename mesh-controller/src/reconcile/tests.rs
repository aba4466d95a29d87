#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use mesh_crd::NodeStateStatus;
use mesh_crd::mesh_config::MeshConfigStatus;
use mesh_model::{TrustDomain, Uid};

use super::board::{Own, SeenLease, SeenMeshConfig, SeenNodeState, State, Words};
use super::events::{Limits, Notice, Verdict, name};
use super::{leases, mesh_config, nodes};
use crate::publish::NodeRow;

fn lease(holder: &str, silent_for: u64, acknowledged: &str) -> SeenLease {
    SeenLease {
        version: "7".into(),
        holder: holder.into(),
        transitions: 1,
        renewed: String::new(),
        acknowledged: acknowledged.into(),
        heard: Instant::now() - Duration::from_secs(silent_for),
    }
}

#[test]
fn the_leaders_lease_is_taken_from_nobody_and_from_the_silent_alone() {
    let (now, due, fresh) = (Instant::now(), true, false);
    let take = leases::Step::Take("7".into());
    for (seen, due, wanted) in [
        (None, due, leases::Step::Create),
        (Some(lease("me", 0, "")), fresh, leases::Step::Nothing),
        (Some(lease("me", 0, "")), due, leases::Step::Renew("7".into())),
        (Some(lease("other", 5, "")), due, leases::Step::Nothing),
        (Some(lease("other", 16, "")), due, take.clone()),
        (Some(lease("", 0, "")), due, take),
    ] {
        assert_eq!(leases::step(seen.as_ref(), "me", now, due), wanted, "{seen:?}");
    }
}

#[test]
fn a_silent_replica_is_dead_only_to_one_that_hears_itself() {
    let mut state = State::default();
    for (name, seen) in [
        ("weft-controller", lease("me", 0, "")),
        ("weft-replica-me", lease("me", 0, "u9")),
        ("weft-replica-live", lease("live", 5, "u1,u2")),
        ("weft-replica-dead", lease("dead", 16, "")),
    ] {
        state.leases.insert(name.into(), seen);
    }
    let others = leases::others(&state, "me", Instant::now());
    assert_eq!(others.keys().collect::<Vec<_>>(), ["live"]);
    assert!(others["live"].contains(&Uid::new("u2")) && others["live"].len() == 2);
    // The watch is blind: nothing that it does not show means anything.
    state.leases.insert("weft-replica-me".into(), lease("me", 30, ""));
    assert_eq!(leases::others(&state, "me", Instant::now()).len(), 2);
}

fn row(heard: u64, captured: &[&str]) -> NodeRow {
    NodeRow {
        policies: None,
        node: "one".into(),
        connected: true,
        version: "1".into(),
        left: false,
        heard,
        words: Words { captured: captured.iter().map(|uid| Uid::new(uid)).collect(), ..Words::default() },
    }
}

fn written(step: nodes::Step) -> NodeStateStatus {
    match step {
        nodes::Step::Write(status) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_is_the_replicas_to_which_its_agent_came_last() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let status = written(nodes::step(&row(1, &["u1"]), None, 0, "me", now));
    assert_eq!((status.replica.as_deref(), status.captured.len()), (Some("me"), 1));
    assert_eq!(status.conditions[0].status, "True");
    let seen = |status: &NodeStateStatus| SeenNodeState { version: "1".into(), status: status.clone() };
    // It stands as it should, and not for the clock's sake alone is it written again.
    let later = now + jiff::SignedDuration::from_secs(300);
    assert_eq!(nodes::step(&row(1, &["u1"]), Some(&seen(&status)), 1, "me", later), nodes::Step::Nothing);
    let much_later = now + jiff::SignedDuration::from_secs(601);
    let renewed = written(nodes::step(&row(1, &["u1"]), Some(&seen(&status)), 1, "me", much_later));
    assert_eq!(renewed.conditions, status.conditions, "it did not change when it was seen");
    assert_eq!(written(nodes::step(&row(2, &[]), Some(&seen(&status)), 1, "me", now)).captured.len(), 0);
    // The agent has moved: what the other replica says counts, until the agent says something here again.
    let theirs = NodeStateStatus { replica: Some("other".into()), captured: vec!["u2".into()], ..status };
    let adopted = nodes::step(&row(1, &["u1"]), Some(&seen(&theirs)), 1, "me", now);
    assert_eq!(adopted, nodes::Step::Adopt(row(1, &["u2"]).words));
    let back = written(nodes::step(&row(2, &["u1"]), Some(&seen(&theirs)), 1, "me", now));
    assert_eq!(back.replica.as_deref(), Some("me"));
}

#[test]
fn a_deleted_state_comes_back_with_its_agent_only() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let away = |heard| NodeRow { connected: false, ..row(heard, &["u1"]) };
    assert_eq!(nodes::step(&away(1), None, 1, "me", now), nodes::Step::Nothing);
    assert_eq!(written(nodes::step(&row(1, &["u1"]), None, 1, "me", now)).captured.len(), 1);
    // What was never written is written, though the agent is gone by now.
    assert_eq!(written(nodes::step(&away(2), None, 1, "me", now)).conditions[0].status, "False");
}

#[test]
fn accepted_says_why_not_and_since_when() {
    let now = Timestamp::from_second(1_000_000).unwrap();
    let domain = TrustDomain::new("cluster.local").unwrap();
    let seen = |verdict: Result<(), &str>, trust_domain: Option<&str>, status| SeenMeshConfig {
        generation: Some(3),
        status,
        verdict: verdict.map_err(str::to_owned),
        trust_domain: trust_domain.map(str::to_owned),
        is_strict: false,
        own: Own::default(),
    };
    let none = MeshConfigStatus::default;
    for (verdict, trust_domain, status, reason) in [
        (Ok(()), None, "True", "InForce"),
        (Ok(()), Some("cluster.local"), "True", "InForce"),
        (Ok(()), Some("other"), "False", "TrustDomainChanged"),
        (Err("no port"), Some("other"), "False", "Invalid"),
    ] {
        let said = mesh_config::status(&seen(verdict, trust_domain, none()), None, &domain, now);
        let condition = &said.conditions[0];
        assert_eq!((&*condition.status, &*condition.reason), (status, reason));
        assert_eq!((condition.observed_generation, said.observed_generation), (Some(3), Some(3)));
        // Said again later it is the same: nothing is written.
        let later = now + jiff::SignedDuration::from_secs(60);
        let again = mesh_config::status(&seen(verdict, trust_domain, said.clone()), None, &domain, later);
        assert_eq!(again, said);
    }
}

#[test]
fn the_same_words_are_one_event_and_a_flood_is_bounded() {
    let notice = |note: &str, object: &str| Notice {
        regarding: ObjectReference { name: Some(object.into()), ..ObjectReference::default() },
        reason: "NotCaptured".into(),
        note: note.into(),
        warning: true,
    };
    let web = name(&notice("why", "web"));
    assert_eq!(web, name(&notice("why", "web")));
    assert!(web.starts_with("web."));
    assert_ne!(web, name(&notice("another why", "web")));
    assert_ne!(web, name(&notice("why", "db")));
    assert!(name(&notice("why", &"x".repeat(253))).len() <= 253);
    let start = Instant::now();
    let mut limits = Limits::new(start);
    assert_eq!(limits.take(&web, start), Verdict::Write(1));
    assert_eq!(limits.take(&web, start + Duration::from_secs(599)), Verdict::Repeated);
    assert_eq!(limits.take(&web, start + Duration::from_secs(601)), Verdict::Write(2));
    let flood = start + Duration::from_secs(601);
    let verdicts: Vec<_> = (0..1_000).map(|number| limits.take(&number.to_string(), flood)).collect();
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Write(1)).count(), 49);
    assert_eq!(verdicts.last(), Some(&Verdict::Dropped));
    assert_eq!(limits.take("late", flood + Duration::from_secs(1)), Verdict::Write(1));
}
