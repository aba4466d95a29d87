#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::Ipv4Addr;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::http::{Response, Routes, Server};
use crate::shutdown::Shutdown;

/// An authority, and what it signs, as files of a directory.
struct Pki {
    directory: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), directory }
    }

    /// `NAME.pem` and `NAME.key`, for one subject alternative name.
    fn sign(&self, name: &str, san: SanType) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        TlsFiles { cert: file("pem"), key: file("key"), ca: self.directory.path().join("ca.pem") }
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// The answer to one request, or why there is none.
async fn ask(addr: std::net::SocketAddr, files: &TlsFiles, name: &str) -> Result<String, String> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(client_config(files).unwrap());
    let mut stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let request = b"GET /healthz HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(answer)
}

#[tokio::test]
async fn only_who_shows_a_certificate_of_the_given_authority_is_answered() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    let server_files = pki.sign("server", dns("agent.test"));
    let tls = MutualTls::open(server_files.clone()).unwrap();
    let server = Server::tls((Ipv4Addr::LOCALHOST, 0).into(), tls).unwrap();
    let addr = server.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let routes = Routes::new().get("/healthz", async |_| Response::text("ok"));
    let serving = tokio::spawn(server.serve(routes, shutdown.clone()));

    let friend = pki.sign("friend", dns("friend"));
    let answer = ask(addr, &friend, "agent.test").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");

    // Another authority's, though the client trusts the server.
    let other = TlsFiles { ca: friend.ca.clone(), ..stranger.sign("other", dns("other")) };
    let refused = ask(addr, &other, "agent.test").await.unwrap_err();
    assert!(refused.contains("UnknownCA") || refused.contains("DecryptError"), "{refused}");

    // The right authority's, but a workload's.
    let uri = SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap());
    let workload = pki.sign("workload", uri);
    assert!(ask(addr, &workload, "agent.test").await.is_err());

    // A server of another name, and one of another authority.
    let error = ask(addr, &friend, "elsewhere.test").await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    let distrustful = TlsFiles { ca: stranger.directory.path().join("ca.pem"), ..friend.clone() };
    assert!(ask(addr, &distrustful, "agent.test").await.is_err());

    // Plain text, and silence that is let go when the server stops.
    let mut plain = TcpStream::connect(addr).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    shutdown.trigger();
    serving.await.unwrap().unwrap();
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let pki = Pki::new();
    let files = pki.sign("server", dns("agent.test"));
    let none = TlsFiles { cert: pki.directory.path().join("nowhere.pem"), ..files.clone() };
    assert!(MutualTls::open(none).unwrap_err().to_string().contains("nowhere.pem"));
    let empty = pki.directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let error = MutualTls::open(TlsFiles { ca: empty.clone(), ..files.clone() }).unwrap_err();
    assert!(matches!(&error, TlsError::Empty(path) if *path == empty), "{error}");
    // Another's key.
    let other = pki.sign("other", dns("other"));
    let error = MutualTls::open(TlsFiles { key: other.key, ..files }).unwrap_err();
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
}

#[test]
fn a_certificate_that_is_renewed_in_its_place_is_shown_and_a_broken_one_is_not() {
    let pki = Pki::new();
    let files = pki.sign("server", dns("agent.test"));
    let tls = MutualTls::open(files.clone()).unwrap();
    let age = |tls: &MutualTls| {
        let mut current = tls.current.lock().unwrap();
        current.0 = current.0.checked_sub(FRESH).unwrap();
    };
    let before = tls.config();
    assert!(Arc::ptr_eq(&before, &tls.config()), "fresh ones are kept");
    age(&tls);
    let renewed = tls.config();
    assert!(!Arc::ptr_eq(&before, &renewed));
    std::fs::write(&files.cert, "broken").unwrap();
    age(&tls);
    assert!(Arc::ptr_eq(&renewed, &tls.config()));
}
