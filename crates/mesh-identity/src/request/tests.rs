#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use super::*;
use crate::fixtures::{HOUR, domain, id};
use crate::{Authority, BuiltinAuthority};

fn authority() -> (tempfile::TempDir, BuiltinAuthority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = BuiltinAuthority::open_or_create(dir.path(), &domain()).unwrap();
    (dir, authority)
}

#[test]
fn a_signed_request_becomes_a_certificate_of_the_asked_identity() {
    let (_dir, authority) = authority();
    let request = KeyRequest::new(&id("ns/a/sa/b")).unwrap();
    assert!(request.csr_pem().starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    let chain = authority.sign(&request.csr_pem(), &id("ns/a/sa/b"), HOUR).unwrap();
    let cert = request.finish(chain.pem()).unwrap();
    assert_eq!(cert.identity(), &id("ns/a/sa/b"));
    assert_eq!(cert.chain().len(), 1, "the root is not sent");
}

#[test]
fn a_chain_for_another_key_or_identity_is_refused() {
    let (_dir, authority) = authority();
    let (mine, other) = (id("ns/a/sa/mine"), id("ns/a/sa/other"));
    let sign = |request: &KeyRequest| authority.sign(&request.csr_pem(), request.identity(), HOUR).unwrap();

    let (request, stranger) = (KeyRequest::new(&mine).unwrap(), KeyRequest::new(&mine).unwrap());
    assert!(matches!(request.finish(sign(&stranger).pem()), Err(CertError::Key(_))));

    // An authority that signs for somebody else than was asked: the same key under another name.
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = KeyRequest::new(&mine).unwrap();
    let bare = params.serialize_request(&request.key).unwrap().pem().unwrap();
    let chain = authority.sign(&bare, &other, HOUR).unwrap();
    assert!(matches!(request.finish(chain.pem()), Err(CertError::Identity { .. })));

    assert!(matches!(KeyRequest::new(&mine).unwrap().finish("no PEM"), Err(CertError::Empty)));
}

#[test]
fn a_chain_that_is_over_is_refused() {
    let ca = crate::fixtures::Ca::new("root");
    let request = KeyRequest::new(&id("ns/a/sa/b")).unwrap();
    let mut params = CertificateParams::default();
    let uri = id("ns/a/sa/b").to_string();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.not_after = (SystemTime::now() - Duration::from_secs(5)).into();
    let cert = params.signed_by(&request.key, &ca.issuer).unwrap();
    let error = request.finish(&cert.pem()).unwrap_err();
    assert!(matches!(error, CertError::Validity { .. }), "{error:?}");
}

#[test]
fn debug_output_has_no_key() {
    let request = KeyRequest::new(&id("ns/a/sa/b")).unwrap();
    assert!(format!("{request:?}").len() < 200);
}
