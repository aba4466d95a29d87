#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;
use crate::fixtures::{Ca, Leaf, id};

#[test]
fn a_certificate_goes_through_pem() {
    let ca = Ca::new("root");
    let cert = ca.cert(&id("ns/a/sa/b"));
    let again = Certificate::from_pem(cert.to_pem().as_bytes()).unwrap();
    assert_eq!(again.chain(), cert.chain());
    assert_eq!(again.to_pem(), cert.to_pem());
    assert_eq!(again.identity(), &id("ns/a/sa/b"));
    assert_eq!(again.issuer(), "CN=root");
    assert!(again.serial().bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(!cert.chain_pem().contains("PRIVATE"));
}

#[test]
fn debug_output_has_no_key() {
    let cert = Ca::new("root").cert(&id("ns/a/sa/b"));
    let text = format!("{cert:?}");
    assert!(text.contains("ns/a/sa/b") && text.len() < 300, "{text}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let ca = Ca::new("root");
    let (chain, _) = ca.raw(Leaf::of(&["spiffe://mesh.test/ns/a/sa/b"]));
    let (_, key) = ca.raw(Leaf::of(&["spiffe://mesh.test/ns/a/sa/b"]));
    assert!(matches!(Certificate::from_parts(chain, key.clone_key()), Err(CertError::Key(_))));
    assert!(matches!(Certificate::from_parts(Vec::new(), key), Err(CertError::Empty)));
    let (chain, key) = ca.raw(Leaf::of(&[]));
    assert!(matches!(Certificate::from_parts(chain, key), Err(CertError::San(SanError::Missing))));
    assert!(matches!(Certificate::from_pem(b"nothing"), Err(CertError::Pem(_))));
}
