#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn seen(uid: &str, port: u16, ago: u64) -> Seen {
    Seen {
        identity: None,
        source: None,
        address: IpAddr::from([192, 0, 2, 1]),
        uid: Uid::new(uid),
        port,
        connections: 3,
        ago: Duration::from_secs(ago),
    }
}

fn ports(observed: &mut Observed, now: Instant) -> Vec<u16> {
    observed.rows(now, SystemTime::now()).0.iter().map(|row| row.port).collect()
}

#[test]
fn what_is_an_hour_old_is_forgotten() {
    let (mut observed, start) = (Observed::default(), Instant::now() + REMEMBERED);
    observed.add("one", [seen("a", 1, 0), seen("a", 2, 3000)].into_iter(), 0, start);
    assert_eq!(ports(&mut observed, start), [1, 2]);
    assert_eq!(ports(&mut observed, start + Duration::from_secs(601)), [1]);
    assert!(ports(&mut observed, start + REMEMBERED).is_empty());
}

#[test]
fn a_pair_that_is_told_again_is_the_same_pair() {
    let (mut observed, start) = (Observed::default(), Instant::now());
    for connections in [1, 7] {
        observed.add("one", std::iter::once(Seen { connections, ..seen("a", 1, 0) }), 0, start);
    }
    let (rows, lost) = observed.rows(start, SystemTime::now());
    assert_eq!((rows.len(), rows[0].connections, lost), (1, 7, 0));
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let (mut observed, start) = (Observed::default(), Instant::now());
    let many = (0..=OF_NODE).map(|n| seen(&n.to_string(), 1, 0));
    observed.add("one", many, 5, start);
    let (rows, lost) = observed.rows(start, SystemTime::now());
    assert_eq!((rows.len(), lost), (OF_NODE, 5 + 3));
}
