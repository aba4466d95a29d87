#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;

use mesh_model::ServiceKey;
use mesh_telemetry::api::{ConnectionPath, Direction, Security};

use super::*;

fn about() -> About {
    let end = |address: &str| End {
        workload: None,
        identity: None,
        address: address.parse::<SocketAddr>().unwrap(),
    };
    About {
        direction: Direction::Outbound,
        path: ConnectionPath::Tunnel,
        security: Security::Mtls,
        source: end("10.0.0.1:40000"),
        destination: end("10.0.0.2:80"),
        service: Some(ServiceKey::new("shop", "web")),
    }
}

fn numbers(answer: &Answer) -> Vec<u64> {
    answer.refusals.iter().map(|row| row.seq).collect()
}

#[test]
fn a_refusal_is_kept_with_who_whom_and_why() {
    let refusals = Refusals::default();
    refusals.note(&about(), Reason::PolicyDenied, "rule 0 of DENY policy shop/web matches");
    refusals.note_cut(
        &about(),
        Reason::PolicyNotAllowed,
        "no ALLOW policy matches (policy shop/db is one that is about it)",
    );
    refusals.note(&about(), Reason::ConnectRefused, "connection refused");
    let answer = refusals.rows("a", None, 10);
    assert_eq!(numbers(&answer), [1, 2, 3]);
    assert_eq!((answer.last, answer.lost, answer.node.as_str()), (3, 0, "a"));
    let policies: Vec<_> = answer.refusals.iter().map(|row| row.policy.as_deref()).collect();
    assert_eq!(policies, [Some("shop/web"), Some("shop/db"), None]);
    let events: Vec<_> = answer.refusals.iter().map(|row| row.event).collect();
    assert_eq!(events, [RefusalEvent::Refused, RefusalEvent::Cut, RefusalEvent::Refused]);
    assert_eq!(answer.refusals[0].destination.service.as_deref(), Some("web"));
    assert_eq!(answer.refusals[0].destination.namespace.as_deref(), Some("shop"));
}

#[test]
fn who_follows_gets_each_one_once_and_hears_of_gaps() {
    let refusals = Refusals::default();
    assert_eq!(numbers(&refusals.rows("a", Some(0), 10)), [0; 0]);
    for _ in 0..5 {
        refusals.note(&about(), Reason::NoEndpoint, "");
    }
    assert_eq!(numbers(&refusals.rows("a", Some(0), 3)), [1, 2, 3]);
    assert_eq!(numbers(&refusals.rows("a", Some(3), 3)), [4, 5]);
    assert_eq!(numbers(&refusals.rows("a", Some(5), 3)), [0; 0]);
    assert_eq!(numbers(&refusals.rows("a", None, 2)), [4, 5]);
    // Of an agent before this one.
    assert_eq!(numbers(&refusals.rows("a", Some(u64::MAX - 1), 2)), [0; 0]);
    for _ in 0..KEPT {
        refusals.note(&about(), Reason::NoEndpoint, "");
    }
    let answer = refusals.rows("a", Some(2), 2);
    assert_eq!((numbers(&answer), answer.lost), (vec![6, 7], 3));
}

#[test]
fn a_flood_is_bounded() {
    let refusals = Refusals::default();
    for _ in 0..3 * KEPT {
        refusals.note(&about(), Reason::NoEndpoint, &"x".repeat(4000));
    }
    let ring = refusals.ring();
    assert_eq!(ring.rows.len(), KEPT);
    assert!(ring.rows.iter().all(|row| row.words.chars().count() == WORDS + 1));
}
