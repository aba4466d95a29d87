//! Two pods, one address.

use super::*;
use crate::index::Remark;

/// UIDs that were remarked on since the last time.
fn remarked(world: &mut World) -> Vec<String> {
    world.index.remarks().into_iter().map(|Remark { uid, .. }| uid.to_string()).collect()
}

fn at(number: usize, address: &str) -> String {
    pod(number, ENABLED, "").replace(&format!("podIP: 10.0.0.{number}"), &format!("podIP: {address}"))
}

#[test]
fn two_running_pods_with_one_address_are_both_told_once_until_it_is_over() {
    let mut world = World::of(&(pod(1, ENABLED, "") + &pod(2, ENABLED, "")));
    assert!(remarked(&mut world).is_empty());
    world.set(&at(2, "10.0.0.1"));
    let remarks = world.index.remarks();
    let of: Vec<_> = remarks.iter().map(|remark| remark.uid.as_str()).collect();
    assert_eq!(of, ["u1", "u2"]);
    assert!(remarks.iter().all(|remark| remark.reason == "ContestedAddress"));
    assert!(
        remarks[0].note.contains("10.0.0.1") && remarks[0].note.contains("shop/web-2"),
        "{}",
        remarks[0].note
    );
    assert!(remarks[1].note.contains("shop/web-1"), "{}", remarks[1].note);
    let standing = world.index.contested();
    assert_eq!(standing, remarks, "who comes to write it down is told the same");
    // Whatever else changes about them.
    world.set(&at(2, "10.0.0.1").replace("app: web", "app: other"));
    world.report("one", "u1", Report::Captured).unwrap();
    assert!(remarked(&mut world).is_empty());
    // A third is told, the others know.
    world.set(&at(3, "10.0.0.1"));
    assert_eq!(remarked(&mut world), ["u3"]);
    // Over, and again.
    world.remove(Kind::Pod, "shop", "web-3");
    world.set(&pod(2, ENABLED, ""));
    assert!(remarked(&mut world).is_empty() && world.index.contested().is_empty());
    world.set(&at(2, "10.0.0.1"));
    assert_eq!(remarked(&mut world), ["u1", "u2"]);
}

#[test]
fn an_address_that_goes_from_a_pod_that_ends_to_the_next_is_no_news() {
    for (from, to) in [
        ("phase: Running", "phase: Succeeded"),
        ("phase: Running", "phase: Failed"),
        ("uid: u1,", "uid: u1, deletionTimestamp: \"2026-01-01T00:00:00Z\","),
        ("nodeName: one", "nodeName: one, hostNetwork: true"),
    ] {
        let mut world = World::of(&pod(1, ENABLED, "").replace(from, to));
        world.set(&at(2, "10.0.0.1"));
        assert!(remarked(&mut world).is_empty(), "{to}");
    }
}

#[test]
fn a_pod_that_waits_for_an_agent_is_labelled_has_an_address_and_was_never_captured() {
    let waiting = |world: &World| {
        let mut uids: Vec<_> = world.index.never_captured().map(|pod| pod.uid.to_string()).collect();
        uids.sort_unstable();
        uids
    };
    let mut world = World::of(
        &(pod(1, ENABLED, "")
            + &pod(2, "", "")
            + &pod(3, ENABLED, "").replace("podIP: 10.0.0.3", "hostIP: 10.0.0.3")
            + &pod(4, ENABLED, "").replace("Running", "Failed")
            + &pod(5, ENABLED, "").replace("nodeName: one", "nodeName: one, hostNetwork: true")),
    );
    assert_eq!(waiting(&world), ["u1"]);
    world.report("one", "u1", Report::Captured).unwrap();
    assert!(waiting(&world).is_empty());
}
