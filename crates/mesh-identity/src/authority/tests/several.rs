//! Several roots at once, and an authority that takes another's place.

use std::sync::Arc;

use super::*;
use crate::{AuthorityPem, LiveAuthority, Named};

fn from_pem(cert: &str, key: &str, roots: Option<&str>) -> Result<BuiltinAuthority, AuthorityError> {
    let named = |name, pem| Named { name: Path::new(name), pem: str::as_bytes(pem) };
    let pem = AuthorityPem {
        cert: named("tls.crt", cert),
        key: named("tls.key", key),
        roots: roots.map(|pem| named("ca.crt", pem)),
    };
    BuiltinAuthority::from_pem(&pem, &domain())
}

fn pem(cas: &[&Ca]) -> String {
    cas.iter().map(|ca| ca.roots().to_pem()).collect()
}

#[test]
fn the_root_that_signs_comes_first_whatever_the_order() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    for (cert, roots) in [
        (pem(&[&new]), Some(pem(&[&old, &new]))),
        (pem(&[&new]), Some(pem(&[&new, &old]))),
        // Its own root is trusted though it is not listed.
        (pem(&[&new]), Some(pem(&[&old]))),
        (pem(&[&new, &old]), None),
    ] {
        let authority = from_pem(&cert, &new.key_pem, roots.as_deref()).unwrap();
        assert_eq!(authority.roots(), new.roots().merge(&old.roots()), "{roots:?}");
        let cert = certificate(&authority, HOUR);
        assert_eq!(cert.chain().len(), 1, "a root is not sent");
        verify(&new.roots(), &cert).unwrap();
        verify(&old.roots(), &cert).unwrap_err();
    }
    let root = Ca::new("corporate root");
    let issuing = root.below(ca_params("mesh"));
    let cert = issuing.roots().to_pem();
    let authority = from_pem(&cert, &issuing.key_pem, Some(&pem(&[&old, &root]))).unwrap();
    assert_eq!(authority.roots(), root.roots().merge(&old.roots()));
    let cert = certificate(&authority, HOUR);
    assert_eq!(cert.chain().len(), 2, "what stands between is sent");
    verify(&root.roots(), &cert).unwrap();
}

#[test]
fn what_does_not_fit_is_named() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let error = from_pem(&pem(&[&new]), &old.key_pem, None).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("tls.key") && text.contains("tls.crt"), "{text}");
    let error = from_pem(&pem(&[&new]), &new.key_pem, Some("no root")).err().unwrap();
    assert!(
        matches!(&error, AuthorityError::Anchors { .. }) && error.to_string().contains("ca.crt"),
        "{error}"
    );
    let below = new.below(ca_params("mesh"));
    let error = from_pem(&pem(&[&below]), &below.key_pem, Some(&pem(&[&old]))).err().unwrap();
    assert!(matches!(error, AuthorityError::Unusable { .. }), "{error:?}");
}

#[test]
fn a_generated_authority_is_one() {
    let (root, key) = BuiltinAuthority::generate(&domain()).unwrap();
    let authority = from_pem(&root, &key, Some(&root)).unwrap();
    verify(&authority.roots(), &certificate(&authority, HOUR)).unwrap();
}

#[test]
fn an_authority_takes_anothers_place_under_way() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let live = LiveAuthority::new(Arc::new(old.authority()));
    let held = live.clone();
    let mut changes = held.changes();
    let sign = || {
        let own = id("ns/a/sa/b");
        let request = KeyRequest::new(&own).unwrap();
        let chain = held.sign(&request.csr_pem(), &own, HOUR).unwrap();
        request.finish(chain.pem()).unwrap()
    };
    verify(&old.roots(), &sign()).unwrap();
    assert!(!changes.has_changed().unwrap());
    live.replace(Arc::new(new.authority()));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    verify(&new.roots(), &sign()).unwrap();
    assert_eq!(held.roots(), new.roots());
    assert!(held.issue_server(&["weft-controller"], HOUR).is_ok());
}
