#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn seen() -> Seen {
    Seen {
        identity: Some("spiffe://weft.test/ns/shop/sa/cart".parse().unwrap()),
        source: Some(Uid::new("b")),
        address: "fd00::7".parse().unwrap(),
        uid: Uid::new("a"),
        port: 8080,
        connections: 12,
        ago: Duration::from_secs(61),
    }
}

#[test]
fn what_is_told_is_what_is_heard() {
    let nobody = Seen { identity: None, source: None, address: "192.0.2.1".parse().unwrap(), ..seen() };
    for seen in [seen(), nobody] {
        assert_eq!(Seen::try_from(proto::Observation::from(seen.clone())), Ok(seen));
    }
}

#[test]
fn what_makes_no_sense_is_an_error_that_names_the_field() {
    let wrong = |change: fn(&mut proto::Observation)| {
        let mut told = proto::Observation::from(seen());
        change(&mut told);
        Seen::try_from(told).unwrap_err().field
    };
    assert_eq!(wrong(|told| told.source_identity = "cart".into()), "source_identity");
    assert_eq!(wrong(|told| told.source_address = vec![1, 2, 3].into()), "source_address");
    assert_eq!(wrong(|told| told.uid.clear()), "uid");
    assert_eq!(wrong(|told| told.port = 70_000), "port");
}
