#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;
use crate::fixtures::{Ca, Leaf, id};

#[test]
fn numbers_are_hex_without_the_sign_byte() {
    assert_eq!(hex(&[0, 0xff, 1]), "ff01");
    assert_eq!(hex(&[0]), "00");
    assert_eq!(hex(&[]), "");
}

#[test]
fn times_are_rfc_3339_with_whole_seconds() {
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_750);
    assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
}

#[test]
fn facts_are_read_and_rubbish_is_not() {
    let ca = Ca::new("root");
    let facts = Facts::read(&ca.cert(&id("ns/a/sa/b")).chain()[0]).unwrap();
    assert_eq!(facts.identity().unwrap(), id("ns/a/sa/b"));
    assert!(!facts.is_ca);
    let root = Facts::read(&ca.der).unwrap();
    assert!(root.is_ca && root.may_sign);
    assert_eq!(root.identity(), Err(SanError::Missing));
    assert!(Facts::read(b"rubbish").is_err());
    let mut longer = ca.der.to_vec();
    longer.push(0);
    assert!(Facts::read(&longer).is_err());
    for cut in [1, 40, 200] {
        assert!(Facts::read(&ca.der[..cut]).is_err());
    }
    let (chain, _) = ca.raw(Leaf::of(&["spiffe://mesh.test/ns/a", "spiffe://mesh.test/ns/a/sa/b"]));
    assert_eq!(Facts::read(&chain[0]).unwrap().identity(), Err(SanError::Several(2)));
}
