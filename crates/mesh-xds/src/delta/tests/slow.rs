//! Agents that do not answer, and changes that do not stop.

use super::*;

#[test]
fn any_number_of_changes_while_a_delta_is_in_flight_becomes_one_delta_of_the_newest() {
    let mut published = published(100);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    drain(&mut session, &mut replica, &published);
    published.apply([Change::Workload(workload(0, 1))]);
    let in_flight = session.next(&published).unwrap().unwrap();
    for revision in 0..2_000 {
        published.apply([Change::Workload(workload(revision % 100, revision))]);
        assert!(session.next(&published).unwrap().is_none(), "one delta at a time");
    }
    let received = replica.receive(in_flight);
    answer(&mut session, replica.accept(received));
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas.len(), 1);
    assert!(deltas[0].complete);
    assert!(deltas[0].resources.len() <= 100, "{}", deltas[0].resources.len());
    assert_eq!(session.acked(), published.generation());
}

#[test]
fn what_is_remembered_of_an_agent_that_does_not_answer_is_bounded_by_the_names_there_are() {
    let mut published = published(2_000);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    assert_eq!(session.remembered(), 0, "a first snapshot is walked through, not written down");
    let first = session.next(&published).unwrap().unwrap();
    assert_eq!(session.remembered(), first.resources.len());
    for revision in 0..100_000 {
        published.apply([Change::Workload(workload(revision % 50, revision))]);
        assert!(session.next(&published).unwrap().is_none());
    }
    assert!(session.remembered() <= first.resources.len() + 50, "{}", session.remembered());
    // Nor is anything lost.
    let received = replica.receive(first);
    answer(&mut session, replica.accept(received));
    drain(&mut session, &mut replica, &published);
    let held: BTreeMap<_, _> = replica.versions().map(|(name, version)| (name.clone(), version)).collect();
    assert_eq!(held.len(), 2_000);
    assert!(held.iter().all(|(name, version)| published.get(name).map(|it| it.version) == *version));
    assert_eq!(session.remembered(), 0);
}

#[test]
fn a_delta_is_bounded_in_number_and_in_bytes() {
    let mut published = Published::default();
    published.apply((0..300).map(|number| {
        let mut large = service(number, 0);
        large.ports = (1..=1_000).collect();
        Change::Service(large)
    }));
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let largest = published.from(std::ops::Bound::Unbounded).map(|(_, it)| it.body.len()).max().unwrap();
    for delta in drain(&mut session, &mut replica, &published) {
        let bytes: usize = delta.resources.iter().map(|resource| resource.body.len()).sum();
        assert!(bytes < (256 << 10) + largest, "{bytes}");
    }
    assert_eq!(replica.versions().count(), 300);
}

#[test]
fn a_session_that_is_too_far_behind_ends_and_the_agent_resumes_by_its_hello() {
    let mut published = published(2);
    let mut replica = Replica::default();
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    drain(&mut session, &mut replica, &published);
    published.apply([Change::WorkloadRemoved(Uid::new("uid-1"))]);
    for revision in 0..70_000 {
        published.apply([Change::Workload(workload(0, revision))]);
    }
    assert!(matches!(session.next(&published), Err(ProtocolError::Behind)));
    let mut session = Session::new(&hello(&replica), &published).unwrap();
    let deltas = drain(&mut session, &mut replica, &published);
    assert_eq!(deltas[0].removed[0].name, "uid-1");
    assert_eq!(replica.versions().count(), 1);
    assert_eq!(session.acked(), published.generation());
}

#[test]
fn a_hello_that_holds_more_than_there_can_be_is_refused_and_equal_ones_cost_no_more_than_the_difference() {
    let published = published(1_000);
    let held = |number: u64| proto::HeldResource {
        name: Some(Name::Workload(Uid::new(&format!("uid-{number}"))).encode()),
        version: published
            .get(&Name::Workload(Uid::new(&format!("uid-{number}"))))
            .map(|it| it.version.0.to_vec())
            .unwrap_or_else(|| vec![0; 16])
            .into(),
    };
    let hello = |count: u64| proto::Hello { held: (0..count).map(held).collect(), ..Default::default() };
    for _ in 0..2 {
        let session = Session::new(&hello(1_010), &published).unwrap();
        assert_eq!(session.remembered(), 10, "ten that were never published, to be taken away");
    }
    // The same name over and over is one name.
    let again = proto::Hello { held: vec![held(5_000); 10_000], ..Default::default() };
    assert_eq!(Session::new(&again, &published).unwrap().remembered(), 1_001);
    let huge = proto::Hello { held: vec![held(0); 250_001], ..Default::default() };
    assert!(matches!(Session::new(&huge, &published), Err(ProtocolError::Held(250_001))));
}
