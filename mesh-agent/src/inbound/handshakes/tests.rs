#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use futures_util::FutureExt;

use super::*;

fn pod(name: &str) -> Uid {
    Uid::new(name)
}

fn is_evicted(place: &mut Place<'_>) -> bool {
    place.evicted().now_or_never().is_some()
}

#[test]
fn the_oldest_of_a_pod_makes_room_at_that_pod() {
    let table = Handshakes::new(2, 10);
    let mut elsewhere = table.enter(&pod("a"));
    let mut first = table.enter(&pod("b"));
    let mut second = table.enter(&pod("b"));
    assert!(!is_evicted(&mut first));
    let mut third = table.enter(&pod("b"));
    assert!(is_evicted(&mut first));
    assert!(!is_evicted(&mut second) && !is_evicted(&mut third) && !is_evicted(&mut elsewhere));
}

#[test]
fn the_oldest_of_all_makes_room_on_the_node() {
    let table = Handshakes::new(10, 2);
    let mut places: Vec<_> = ["a", "b", "c"].iter().map(|name| table.enter(&pod(name))).collect();
    let evicted: Vec<bool> = places.iter_mut().map(is_evicted).collect();
    assert_eq!(evicted, [true, false, false]);
}

#[test]
fn a_place_that_is_given_back_leaves_nothing() {
    let table = Handshakes::new(1, 1);
    for _ in 0..3 {
        let mut place = table.enter(&pod("a"));
        assert!(!is_evicted(&mut place));
    }
    let going = table.lock();
    assert!(going.all.is_empty() && going.of_pod.is_empty());
}
