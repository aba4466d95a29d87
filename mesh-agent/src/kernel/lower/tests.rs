#![allow(clippy::unwrap_used, reason = "tests")]

mod cost;
mod kernel;
mod order;
mod services;
mod verdicts;

use std::net::IpAddr;

use mesh_model::{Phase, Tunnel, Uid, Workload};

use super::policies::prefixes;

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn a_range_of_ports_is_covered_by_prefixes_that_do_not_overlap() {
    for (first, last) in [(1, 65535), (0, 65535), (80, 80), (79, 81), (1000, 2999), (65535, 65535), (1, 2)] {
        let mut covered = Vec::new();
        for (bits, start) in prefixes(&(first..=last)) {
            let size = 1_u32 << (16 - bits);
            assert_eq!(u32::from(start) % size, 0, "{start}/{bits}");
            covered.extend(u32::from(start)..u32::from(start) + size);
        }
        assert_eq!(covered, (u32::from(first)..=u32::from(last)).collect::<Vec<_>>(), "{first}-{last}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A workload outside the mesh.
fn pod(address: &str) -> Workload {
    Workload {
        uid: Uid::new(address),
        namespace: "shop".into(),
        name: "pod".into(),
        owner: "pod".into(),
        node: "a".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/default".parse().unwrap(),
        addresses: vec![address.parse().unwrap()],
        enrolled: true,
        left_alone: None,
        bindings: None,
        tunnel: Tunnel::None,
        phase: Phase::Running,
        host_network: false,
    }
}
