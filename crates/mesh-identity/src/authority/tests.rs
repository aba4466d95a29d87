#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::UnixTime;
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::fixtures::{Ca, HOUR, ca_params, domain, id};
use crate::roots::pem_blocks;
use crate::{Certificate, KeyRequest};

mod several;

fn open(dir: &Path) -> Result<BuiltinAuthority, AuthorityError> {
    BuiltinAuthority::open_or_create(dir, &domain())
}

fn certificate(authority: &BuiltinAuthority, lifetime: Duration) -> Certificate {
    let request = KeyRequest::new(&id("ns/a/sa/b")).unwrap();
    let chain = authority.sign(&request.csr_pem(), &id("ns/a/sa/b"), lifetime).unwrap();
    request.finish(chain.pem()).unwrap()
}

fn verify(roots: &Roots, certificate: &Certificate) -> Result<(), webpki::Error> {
    let (leaf, rest) = certificate.chain().split_first().unwrap();
    roots.verify(leaf, rest, UnixTime::now(), KeyUsage::client_auth())
}

fn write_key(dir: &Path, key_pem: &str) -> std::path::PathBuf {
    let path = dir.join("their.key");
    fs::write(&path, key_pem).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn write_chain(dir: &Path, chain: &[&Ca]) -> std::path::PathBuf {
    let path = dir.join("their.pem");
    fs::write(&path, pem_blocks("CERTIFICATE", chain.iter().map(|ca| ca.der.as_ref()))).unwrap();
    path
}

#[test]
fn an_authority_is_made_once_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let first = open(&state).unwrap();
    let cert = certificate(&first, HOUR);
    let mode = |name| fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ca.key"), 0o600);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "the key and the root, nothing half-written");
    let second = open(&state).unwrap();
    assert_eq!(first.roots(), second.roots());
    assert_eq!(Roots::from_pem_file(&state.join("root.pem")).unwrap(), second.roots());
    verify(&second.roots(), &cert).unwrap();
    let years = first.not_after().duration_since(SystemTime::now()).unwrap().as_secs() / (365 * 24 * 3600);
    assert!((9..=10).contains(&years));
}

#[test]
fn controllers_that_start_together_make_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let roots: Vec<Roots> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| open(dir.path()).unwrap().roots())).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|r| *r == roots[0]));
}

#[test]
fn a_leaf_says_what_it_should_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let cert = certificate(&authority, HOUR);
    let (_, leaf) = X509Certificate::from_der(&cert.chain()[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical && san.value.general_names.len() == 1);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.flags == 1);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert!(!leaf.is_ca());
    assert!(leaf.basic_constraints().unwrap().is_some());

    let back_dated = SystemTime::now().duration_since(cert.not_before()).unwrap().as_secs();
    assert!((600..660).contains(&back_dated), "{back_dated}");
    let left = cert.not_after().duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((3590..=3601).contains(&left), "{left}");
    assert!(cert.serial().len() > 24, "{}", cert.serial());
    assert_ne!(cert.serial(), certificate(&authority, HOUR).serial());
}

#[test]
fn a_short_lifetime_is_not_rounded_away_and_a_long_one_ends_with_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    assert!(certificate(&authority, Duration::from_millis(900)).not_after() > SystemTime::now());
    assert_eq!(certificate(&authority, Duration::MAX).not_after(), authority.not_after());
    let request = KeyRequest::new(&id("ns/a/sa/b")).unwrap();
    let zero = authority.sign(&request.csr_pem(), &id("ns/a/sa/b"), Duration::ZERO);
    assert!(matches!(zero, Err(AuthorityError::Request(_))));
}

#[test]
fn a_key_alone_gets_its_root_again_under_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let cert = certificate(&open(dir.path()).unwrap(), HOUR);
    fs::remove_file(dir.path().join("root.pem")).unwrap();
    fs::write(dir.path().join(".root.pem.new"), "half").unwrap();
    verify(&open(dir.path()).unwrap().roots(), &cert).unwrap();
}

#[test]
fn a_root_without_its_key_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, AuthorityError::KeyMissing { .. }), "{error:?}");
    assert!(dir.path().join("root.pem").exists());
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    fs::set_permissions(dir.path().join("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let AuthorityError::Disk(error) = open(dir.path()).err().unwrap() else { panic!("another error") };
    assert!(error.to_string().contains("chmod 0600"), "{error}");
}

#[test]
fn an_authority_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let other = TrustDomain::new("other.test").unwrap();
    let error = BuiltinAuthority::open_or_create(dir.path(), &other).err().unwrap();
    assert!(error.to_string().contains("spiffe://mesh.test"), "{error}");
}

#[test]
fn an_operators_authority_below_a_root_sends_its_chain() {
    let dir = tempfile::tempdir().unwrap();
    let root = Ca::new("corporate root");
    let middle = root.below(ca_params("division"));
    let issuing = middle.below(ca_params("mesh"));
    let key = write_key(dir.path(), &issuing.key_pem);
    let chain = write_chain(dir.path(), &[&issuing, &middle, &root]);
    let authority = BuiltinAuthority::from_files(&chain, &key, &domain()).unwrap();
    assert_eq!(authority.roots(), root.roots());
    let cert = certificate(&authority, HOUR);
    assert_eq!(cert.chain().len(), 3);
    verify(&root.roots(), &cert).unwrap();

    let gap = write_chain(dir.path(), &[&issuing, &root]);
    let error = BuiltinAuthority::from_files(&gap, &key, &domain()).err().unwrap();
    assert!(matches!(error, AuthorityError::Unusable { .. }), "{error:?}");
}

#[test]
fn an_operators_files_are_checked_before_anything_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let error = |ca: &Ca, key_pem: &str| {
        let (cert, key) = (write_chain(dir.path(), &[ca]), write_key(dir.path(), key_pem));
        BuiltinAuthority::from_files(&cert, &key, &domain()).err().unwrap()
    };
    let good = Ca::new("good");
    let other = Ca::new("other");
    assert!(matches!(error(&good, &other.key_pem), AuthorityError::Mismatch { .. }));
    assert!(matches!(error(&good, "no key"), AuthorityError::Key { .. }));

    let mut leaf = ca_params("leaf");
    leaf.is_ca = IsCa::ExplicitNoCa;
    let leaf = Ca::with(leaf);
    assert!(matches!(error(&leaf, &leaf.key_pem), AuthorityError::Certificate { .. }));

    let mut silent = ca_params("no keyCertSign");
    silent.key_usages = vec![KeyUsagePurpose::CrlSign];
    let silent = Ca::with(silent);
    assert!(matches!(error(&silent, &silent.key_pem), AuthorityError::MayNotSign { .. }));

    let mut old = ca_params("old");
    old.not_after = (SystemTime::now() - HOUR).into();
    let old = Ca::with(old);
    assert!(matches!(error(&old, &old.key_pem), AuthorityError::Validity { .. }));

    // A path length of 0 still allows leaves.
    let mut last = ca_params("last");
    last.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = Ca::with(last);
    let (cert, key) = (write_chain(dir.path(), &[&last]), write_key(dir.path(), &last.key_pem));
    BuiltinAuthority::from_files(&cert, &key, &domain()).unwrap();

    let missing =
        BuiltinAuthority::from_files(Path::new("/nonexistent/ca.pem"), &key, &domain()).err().unwrap();
    assert!(matches!(missing, AuthorityError::Disk(_)), "{missing:?}");
}

/// A request with these names.
fn csr(names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_request_may_name_its_identity_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let own = id("ns/a/sa/b");
    let sign = |names| authority.sign(&csr(names), &own, HOUR);
    sign(Vec::new()).unwrap();
    sign(vec![uri(&own.to_string())]).unwrap();
    let other = id("ns/a/sa/other").to_string();
    let dns = SanType::DnsName("weft-controller".try_into().unwrap());
    for names in [
        vec![uri(&other)],
        vec![uri(&own.to_string()), uri(&other)],
        vec![uri(&own.to_string()), dns.clone()],
        vec![dns],
    ] {
        let error = sign(names).unwrap_err();
        assert!(matches!(error, AuthorityError::Csr(CsrError::Names { .. })), "{error:?}");
    }
}

#[test]
fn a_tampered_request_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let own = id("ns/a/sa/b");
    let request = KeyRequest::new(&own).unwrap();
    let der = request.csr_der().to_vec();
    // Between the two stand only the algorithm, which the parser reads loosely, and the count of unused bits: nothing that
    // is signed, and nothing that is taken over.
    let ecdsa_sha256 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    let algorithm = der.windows(10).position(|w| w == ecdsa_sha256).unwrap();
    let (info_end, signature) = (algorithm - 2, algorithm + 13);
    for at in (0..info_end).chain(signature..der.len()) {
        let mut changed = der.clone();
        changed[at] ^= 1;
        let pem = pem_blocks("CERTIFICATE REQUEST", [changed.as_slice()]);
        assert!(authority.sign(&pem, &own, HOUR).is_err(), "byte {at}");
    }
    let name = der.windows(4).position(|w| w == b"sa/b").unwrap();
    let mut changed = der;
    changed[name + 3] = b'c';
    let pem = pem_blocks("CERTIFICATE REQUEST", [changed.as_slice()]);
    let error = authority.sign(&pem, &id("ns/a/sa/c"), HOUR).unwrap_err();
    assert!(matches!(error, AuthorityError::Csr(CsrError::Signature)), "{error:?}");
}

#[test]
fn a_request_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let own = id("ns/a/sa/b");
    let huge = "x".repeat(1 << 20);
    let certificate = authority.roots().to_pem();
    for text in ["", "rubbish", huge.as_str(), certificate.as_str()] {
        let error = authority.sign(text, &own, HOUR).unwrap_err();
        assert!(matches!(error, AuthorityError::Csr(CsrError::Encoding(_))), "{error:?}");
    }
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = CertificateParams::default().serialize_request(&ed25519).unwrap().pem().unwrap();
    let error = authority.sign(&pem, &own, HOUR).unwrap_err();
    assert!(matches!(error, AuthorityError::Csr(CsrError::Key)), "{error:?}");
}

#[test]
fn an_identity_of_another_trust_domain_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let foreign: Identity = "spiffe://other.test/ns/a/sa/b".parse().unwrap();
    let request = KeyRequest::new(&foreign).unwrap();
    let error = authority.sign(&request.csr_pem(), &foreign, HOUR).unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignIdentity { .. }), "{error:?}");
}

#[test]
fn a_server_certificate_needs_names_that_are_names() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let cert = authority.issue_server(&["weft-controller", "10.1.2.3"], HOUR).unwrap();
    assert!(cert.not_after() > SystemTime::now() && cert.not_before() > UNIX_EPOCH);
    for names in [&[][..], &["two words"], &[""]] {
        assert!(matches!(authority.issue_server(names, HOUR), Err(AuthorityError::Request(_))), "{names:?}");
    }
}
