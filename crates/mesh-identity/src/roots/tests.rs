#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use super::*;
use crate::fixtures::{Ca, Leaf};

#[test]
fn several_anchors_go_through_pem_and_merge_each_once() {
    let (a, b) = (Ca::new("a").roots(), Ca::new("b").roots());
    let both = a.merge(&b);
    assert_eq!(both.len(), 2);
    assert_eq!(both.merge(&a), both);
    assert_eq!(Roots::from_pem(both.to_pem().as_bytes()).unwrap(), both);
    let with_text = format!("the old root\n{}and the new\n{}", a.to_pem(), b.to_pem());
    assert_eq!(Roots::from_pem(with_text.as_bytes()).unwrap(), both);
    assert!(format!("{both:?}").contains("CN=a"));
}

#[test]
fn what_holds_no_certificate_is_an_error() {
    assert!(matches!(Roots::from_pem(b""), Err(RootsError::Empty)));
    assert!(matches!(Roots::from_pem(b"not PEM"), Err(RootsError::Empty)));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(Roots::from_pem(broken.as_bytes()), Err(RootsError::Malformed { number: 1, .. })));
    let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert!(matches!(Roots::from_pem(cut.as_bytes()), Err(RootsError::Pem(_))));
}

#[test]
fn a_leaf_is_no_anchor() {
    let (chain, _) = Ca::new("root").raw(Leaf::of(&["spiffe://mesh.test/ns/a/sa/b"]));
    assert!(matches!(Roots::from_ders(chain), Err(RootsError::NotAuthority { number: 1, .. })));
}

#[test]
fn a_missing_file_is_named_with_the_remedy() {
    let error = Roots::from_pem_file(Path::new("/nonexistent/root.pem")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nonexistent/root.pem") && text.contains("STATE_DIR/root.pem"), "{text}");
}
