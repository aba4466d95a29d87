#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_telemetry::api::{ConnectionPath, Security};

use super::*;
use crate::connections::End;

fn about(direction: Direction, from: &str, port: u16) -> About {
    let workload = mesh_model::Workload {
        uid: Uid::new("web"),
        namespace: "shop".into(),
        name: "web".into(),
        owner: "web".into(),
        node: "a".into(),
        identity: "spiffe://weft.test/ns/shop/sa/web".parse().unwrap(),
        addresses: Vec::new(),
        enrolled: true,
        left_alone: None,
        tunnel: Default::default(),
        phase: Default::default(),
        host_network: false,
        bindings: None,
    };
    let end = |workload, address| End { workload, identity: None, address };
    About {
        direction,
        path: ConnectionPath::Plaintext,
        security: Security::Plaintext,
        source: end(None, SocketAddr::new(from.parse().unwrap(), 40_000)),
        destination: end(Some(Arc::new(workload)), SocketAddr::from(([10, 0, 0, 1], port))),
        service: None,
    }
}

#[test]
fn a_pair_is_told_once_and_then_while_it_goes_on() {
    let (sightings, start) = (Sightings::default(), Instant::now());
    let told = |at: Instant| {
        let (seen, lost) = sightings.untold(at);
        assert_eq!(lost, 0);
        seen.iter().map(|seen| (seen.address.to_string(), seen.port, seen.connections)).collect::<Vec<_>>()
    };
    sightings.saw_at(&about(Direction::Inbound, "192.0.2.1", 80), 2, start);
    // Mapped or not, it is the same address; from another port too.
    sightings.saw_at(&about(Direction::Inbound, "::ffff:192.0.2.1", 80), 1, start);
    sightings.saw_at(&about(Direction::Outbound, "192.0.2.1", 81), 1, start);
    let all = [("192.0.2.1".to_owned(), 80, 3)];
    assert_eq!(told(start), all);
    assert!(told(start + AGAIN).is_empty(), "nothing new");
    sightings.saw_at(&about(Direction::Inbound, "192.0.2.1", 80), 1, start + AGAIN);
    assert_eq!(told(start + AGAIN), [("192.0.2.1".to_owned(), 80, 4)]);
    sightings.tell_again();
    assert_eq!(told(start + AGAIN).len(), 1, "another controller");
    sightings.tell_again();
    assert!(told(start + AGAIN + REMEMBERED).is_empty(), "an hour later");
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let (sightings, start) = (Sightings::default(), Instant::now());
    for n in 0..ROOM + 3 {
        let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
        sightings.saw_at(&about(Direction::Inbound, &format!("10.0.{high}.{low}"), 80), 1, start);
    }
    assert_eq!(sightings.untold(start).1, 3);
}
