#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Seconds that go by as the test says.
fn clock() -> (Arc<AtomicU64>, RoundRobin) {
    let now = Arc::new(AtomicU64::new(0));
    let seen = now.clone();
    (now, RoundRobin::new(move || Duration::from_secs(seen.load(Ordering::Relaxed))))
}

fn target(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a01_0000 + number).into()
}

/// Where a client goes that would be sent to `fresh` if it were not remembered.
fn keep(balancer: &RoundRobin, service: &ServiceKey, port: u16, who: u32, fresh: u8) -> SocketAddr {
    let choice = Choice { service, port, ipv6: false };
    balancer.keep(&choice, client(who), 60, &mut |last| last.or(Some(target(fresh)))).unwrap()
}

#[test]
fn turns_are_counted_for_each_service_port_and_family() {
    let (_, balancer) = clock();
    let (web, db) = (ServiceKey::new("shop", "web"), ServiceKey::new("shop", "db"));
    let next = |service: &ServiceKey, port, ipv6| balancer.choose(&Choice { service, port, ipv6 }, 2);
    for round in [0, 1, 0, 1] {
        assert_eq!(next(&web, 80, false), round);
        assert_eq!(next(&web, 81, false), round);
        assert_eq!(next(&web, 80, true), round);
        assert_eq!(next(&db, 80, false), round);
    }
}

#[test]
fn a_client_is_remembered_until_the_timeout_after_its_last_connection() {
    let (now, balancer) = clock();
    let web = ServiceKey::new("shop", "web");
    assert_eq!(keep(&balancer, &web, 80, 1, 1), target(1));
    now.store(59, Ordering::Relaxed);
    assert_eq!(keep(&balancer, &web, 80, 1, 2), target(1));
    now.store(118, Ordering::Relaxed);
    assert_eq!(keep(&balancer, &web, 80, 1, 3), target(1), "refreshed by use");
    now.store(178, Ordering::Relaxed);
    assert_eq!(keep(&balancer, &web, 80, 1, 4), target(4), "60 s without a connection");
}

#[test]
fn another_client_port_or_service_is_another_matter() {
    let (_, balancer) = clock();
    let (web, db) = (ServiceKey::new("shop", "web"), ServiceKey::new("shop", "db"));
    assert_eq!(keep(&balancer, &web, 80, 1, 1), target(1));
    assert_eq!(keep(&balancer, &web, 80, 2, 2), target(2));
    assert_eq!(keep(&balancer, &web, 81, 1, 3), target(3));
    assert_eq!(keep(&balancer, &db, 80, 1, 4), target(4));
    assert_eq!(keep(&balancer, &web, 80, 1, 9), target(1));
}

#[test]
fn what_is_remembered_is_bounded_and_the_last_ones_stay() {
    let (_, balancer) = clock();
    let web = ServiceKey::new("shop", "web");
    let kept = u32::try_from(Affinity::KEPT).unwrap();
    keep(&balancer, &web, 80, 0, 1);
    for number in 1..kept * 3 {
        keep(&balancer, &web, 80, number, 1);
        // One that goes on dialling is never forgotten.
        if number % 1000 == 0 {
            assert_eq!(keep(&balancer, &web, 80, 0, 2), target(1), "after {number} others");
        }
    }
    let affinity = lock(&balancer.affinity);
    assert!(affinity.young.len() + affinity.old.len() <= 2 * Affinity::KEPT);
    drop(affinity);
    assert_eq!(keep(&balancer, &web, 80, kept * 3 - kept + 10, 2), target(1), "among the last ones");
    assert_eq!(keep(&balancer, &web, 80, 1, 2), target(2), "long ago");
}
