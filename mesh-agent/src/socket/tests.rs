use std::collections::BTreeSet;

use super::*;

#[test]
fn deliveries_take_the_sources_in_turn_and_try_them_all() {
    let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
    for (to, routed, count) in [(v4, false, 8), (v4, true, 8), (v6, true, 32)] {
        let first: BTreeSet<_> = (0..64).filter_map(|_| delivery_sources(to, routed).next()).collect();
        assert_eq!(first.len(), count, "{to}: first ones {first:?}");
        let all: BTreeSet<_> = delivery_sources(to, routed).collect();
        assert_eq!(all.len(), count, "{to}: {all:?}");
        let ours =
            |source: &IpAddr| crate::kernel::maps::addr(*source).is_delivery_source() || source.is_loopback();
        assert!(all.iter().all(ours), "{all:?}");
    }
    assert_eq!(delivery_sources(v6, false).collect::<Vec<_>>(), [v6]);
}

#[test]
fn two_connections_of_one_client_port_are_told_apart_while_both_live() {
    let (to, other) = (SocketAddr::from(([10, 9, 0, 1], 80)), SocketAddr::from(([10, 9, 0, 1], 81)));
    let client = SocketAddr::from(([10, 9, 0, 2], 65_535));
    let first = Claim::new(to, client);
    let second = Claim::new(to, client);
    assert_eq!(first.client(), client);
    assert_eq!(second.client(), SocketAddr::new(client.ip(), 1024));
    assert_eq!(Claim::new(other, client).client(), client, "another application");
    drop(first);
    assert_eq!(Claim::new(to, client).client(), client, "it is free again");
}
