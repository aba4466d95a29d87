#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::error::Error;

use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CipherSuite, HandshakeKind, ProtocolVersion};
use rustls_pki_types::UnixTime;
use std::time::{Duration, SystemTime};

use super::*;
use crate::fixtures::{
    Ca, HOUR, Leaf, careless_client, careless_server, domain, handshake, handshake_as, id,
};
use crate::{Authority as _, BuiltinAuthority, SanError};

/// Two workloads and whose side is looked at.
struct World {
    ca: Ca,
    client: Identity,
    server: Identity,
}

impl World {
    fn new() -> Self {
        Self { ca: Ca::new("root"), client: id("ns/shop/sa/cart"), server: id("ns/shop/sa/till") }
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        client_config(&self.ca.cert(&self.client), &self.ca.roots(), std::slice::from_ref(&self.server))
            .unwrap()
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        server_config(&self.ca.cert(&self.server), &self.ca.roots()).unwrap()
    }

    /// What our client says about a server with this certificate.
    async fn client_says(&self, leaf: Leaf) -> PeerError {
        let (client, _) = handshake(&self.client_config(), &careless_server(self.ca.raw(leaf))).await;
        peer_error_in(&client.unwrap_err()).expect("a peer error")
    }

    /// What our server says about a client with this certificate.
    async fn server_says(&self, leaf: Leaf) -> PeerError {
        let client = Arc::new(careless_client(Some(self.ca.raw(leaf))));
        let (_, server) = handshake(&client, &self.server_config()).await;
        peer_error_in(&server.unwrap_err()).expect("a peer error")
    }
}

#[tokio::test]
async fn two_workloads_learn_who_the_other_is() {
    let world = World::new();
    let (client, server) = handshake(&world.client_config(), &world.server_config()).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(peer_identity(client).unwrap(), world.server);
    assert_eq!(peer_identity(server).unwrap(), world.client);
    assert_eq!(server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(server.server_name(), None, "the name in the clear says nothing");
}

#[tokio::test]
async fn our_order_of_ciphers_holds_for_a_client_with_another() {
    let world = World::new();
    let uri = world.client.to_string();
    let mut client = careless_client(Some(world.ca.raw(Leaf::of(&[&uri]))));
    let mut reversed = CryptoProvider::clone(&provider());
    reversed.cipher_suites.reverse();
    client = {
        let (chain, key) = world.ca.raw(Leaf::of(&[&uri]));
        let verifier = PeerVerifier::new(world.ca.roots(), Accepted::AnyOf(vec![world.server.clone()]));
        let mut config = ClientConfig::builder_with_provider(Arc::new(reversed))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = client.alpn_protocols;
        config
    };
    let (_, server) = handshake(&Arc::new(client), &world.server_config()).await;
    let suite = server.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused_by_either_side() {
    let (world, other) = (World::new(), World::new());
    let (client, _) = handshake(&world.client_config(), &other.server_config()).await;
    let error = client.unwrap_err();
    assert!(matches!(peer_error_in(&error), Some(PeerError::Chain(_))), "{error:?}");

    let stranger = careless_client(Some(other.ca.raw(Leaf::of(&[&world.client.to_string()]))));
    let (client, server) = handshake(&Arc::new(stranger), &world.server_config()).await;
    let error = server.unwrap_err();
    assert!(matches!(peer_error_in(&error), Some(PeerError::Chain(_))), "{error:?}");
    assert!(client.is_err());
}

#[tokio::test]
async fn either_of_two_roots_is_believed_while_one_replaces_the_other() {
    let (old, new) = (World::new(), World::new());
    let both = old.ca.roots().merge(&new.ca.roots());
    let server = server_config(&old.ca.cert(&old.server), &both).unwrap();
    let client = client_config(&new.ca.cert(&new.client), &both, std::slice::from_ref(&old.server)).unwrap();
    let (client, server) = handshake(&client, &server).await;
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_is_refused_with_both_clocks() {
    let world = World::new();
    let now = SystemTime::now();
    let old = |who: &Identity| Leaf {
        not_before: now - 3 * HOUR,
        not_after: now - HOUR,
        ..Leaf::of(&[&who.to_string()])
    };
    for error in [world.client_says(old(&world.server)).await, world.server_says(old(&world.client)).await] {
        let PeerError::Expired { whose, not_before, not_after, now: seen } = error.clone() else {
            panic!("{error:?}");
        };
        assert!(not_before < not_after && not_after < seen);
        let text = error.to_string();
        assert!(whose.starts_with("spiffe://mesh.test/") && text.contains(&whose), "{text}");
        assert_eq!(error.reason(), mesh_model::Reason::CertificateExpired);
        for time in [not_before, not_after, seen] {
            assert!(text.contains(&crate::x509::rfc3339(time)), "{text}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_refused_with_both_clocks() {
    let world = World::new();
    let now = SystemTime::now();
    let early = |who: &Identity| Leaf {
        not_before: now + HOUR,
        not_after: now + 2 * HOUR,
        ..Leaf::of(&[&who.to_string()])
    };
    for error in
        [world.client_says(early(&world.server)).await, world.server_says(early(&world.client)).await]
    {
        let PeerError::NotYetValid { not_before, now: seen, .. } = error.clone() else {
            panic!("{error:?}");
        };
        assert!(seen < not_before);
        assert!(error.to_string().contains("clocks"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_needs_exactly_one_mesh_uri() {
    let world = World::new();
    let (own, second) = (world.server.to_string(), id("ns/shop/sa/cart").to_string());
    let twice = world.client_says(Leaf::of(&[&own, &second])).await;
    assert_eq!(twice, PeerError::San(SanError::Several(2)));
    assert_eq!(world.client_says(Leaf::of(&[])).await, PeerError::San(SanError::Missing));
    let bad = world.client_says(Leaf::of(&["https://mesh.test/ns/shop/sa/till"])).await;
    assert!(matches!(bad, PeerError::San(SanError::Bad(_))), "{bad:?}");

    let twice = world.server_says(Leaf::of(&[&second, &own])).await;
    assert_eq!(twice, PeerError::San(SanError::Several(2)));
    assert_eq!(world.server_says(Leaf::of(&[])).await, PeerError::San(SanError::Missing));
    assert_eq!(twice.reason(), mesh_model::Reason::BadSan);
}

#[tokio::test]
async fn a_dns_name_beside_the_uri_does_not_matter() {
    let world = World::new();
    let mut leaf = Leaf::of(&[&world.server.to_string()]);
    leaf.sans.push(rcgen::SanType::DnsName("till.shop".try_into().unwrap()));
    let (client, _) = handshake(&world.client_config(), &careless_server(world.ca.raw(leaf))).await;
    client.unwrap();
}

#[tokio::test]
async fn another_workload_than_the_expected_is_refused() {
    let world = World::new();
    let other = id("ns/shop/sa/thief");
    let error = world.client_says(Leaf::of(&[&other.to_string()])).await;
    assert_eq!(error, PeerError::Unexpected { expected: vec![world.server.clone()], got: other.clone() });
    assert!(error.to_string().contains(&other.to_string()));
    let none = client_config(&world.ca.cert(&world.client), &world.ca.roots(), &[]);
    assert!(matches!(none, Err(TlsError::NothingExpected)));
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let world = World::new();
    let foreign = "spiffe://other.test/ns/shop/sa/cart";
    let error = world.server_says(Leaf::of(&[foreign])).await;
    assert!(matches!(error, PeerError::TrustDomain { .. }), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_one_side_only_does_not_serve_the_other() {
    let world = World::new();
    let purposes = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = Leaf { purposes, ..Leaf::of(&[&world.client.to_string()]) };
    let error = world.server_says(leaf).await;
    assert!(matches!(error, PeerError::Chain(_)), "{error:?}");
    assert!(error.source().is_some());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let (client, server) = handshake(&Arc::new(careless_client(None)), &world.server_config()).await;
    let error = server.unwrap_err();
    assert_eq!(peer_error_in(&error), Some(PeerError::NoCertificate), "{error:?}");
    assert!(client.is_err());
}

/// What the other end is told when ours refuses it.
#[tokio::test]
async fn each_refusal_has_the_alert_that_the_standard_has_for_it() {
    let world = World::new();
    let now = SystemTime::now();
    let own = world.client.to_string();
    let at = |from: SystemTime, to: SystemTime| Leaf { not_before: from, not_after: to, ..Leaf::of(&[&own]) };
    let server_only = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let foreign = "spiffe://other.test/ns/shop/sa/cart";
    let cases = [
        (Some(Ca::new("other").raw(Leaf::of(&[&own]))), AlertDescription::UnknownCA),
        (Some(world.ca.raw(at(now - 3 * HOUR, now - HOUR))), AlertDescription::CertificateExpired),
        (Some(world.ca.raw(at(now + HOUR, now + 2 * HOUR))), AlertDescription::CertificateExpired),
        (Some(world.ca.raw(Leaf::of(&[&own, foreign]))), AlertDescription::CertificateUnknown),
        (Some(world.ca.raw(Leaf::of(&[foreign]))), AlertDescription::AccessDenied),
        (
            Some(world.ca.raw(Leaf { purposes: server_only, ..Leaf::of(&[&own]) })),
            AlertDescription::UnsupportedCertificate,
        ),
        (None, AlertDescription::CertificateRequired),
    ];
    for (shown, alert) in cases {
        let client = Arc::new(careless_client(shown));
        let (client, server) = handshake(&client, &world.server_config()).await;
        let told = client.unwrap_err();
        let told = tls_error_in(&told).cloned();
        assert_eq!(told, Some(rustls::Error::AlertReceived(alert)), "{:?}", server.err());
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let world = World::new();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(world.ca.roots().store())
        .with_no_client_auth();
    let (client, server) = handshake(&Arc::new(client), &world.server_config()).await;
    assert!(client.is_err());
    let error = server.unwrap_err();
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    assert!(matches!(inner, Some(rustls::Error::PeerIncompatible(_))), "{error:?}");
    assert_eq!(peer_error_in(&error), None);
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    let world = World::new();
    let mut client = ClientConfig::clone(&world.client_config());
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (client, server) = handshake(&Arc::new(client), &world.server_config()).await;
    assert!(server.is_err());
    let error = client.unwrap_err();
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(inner, Some(&alert), "{error:?}");
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_and_still_knows_the_peer() {
    let world = World::new();
    let (client, server) = (world.client_config(), world.server_config());
    let (first, _) = handshake(&client, &server).await;
    assert_eq!(first.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    let (near, far) = handshake(&client, &server).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
    assert_eq!(peer_identity(near.get_ref().1).unwrap(), world.server);
    assert_eq!(peer_identity(far.get_ref().1).unwrap(), world.client);

    let elsewhere = world.server_config();
    let (again, _) = handshake(&client, &elsewhere).await;
    assert_eq!(
        again.unwrap().get_ref().1.handshake_kind(),
        Some(HandshakeKind::Full),
        "a store per configuration"
    );
}

/// A clock that stands still.
#[derive(Debug)]
struct StoppedAt(SystemTime);

impl TimeProvider for StoppedAt {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(std::time::UNIX_EPOCH).unwrap()))
    }
}

#[tokio::test]
async fn a_peer_that_expired_after_its_handshake_is_nobody() {
    let world = World::new();
    let now = SystemTime::now();
    let leaf =
        Leaf { not_before: now - 3 * HOUR, not_after: now - HOUR, ..Leaf::of(&[&world.server.to_string()]) };
    let mut client = ClientConfig::clone(&world.client_config());
    client.time_provider = Arc::new(StoppedAt(now - 2 * HOUR));
    let (client, _) = handshake(&Arc::new(client), &careless_server(world.ca.raw(leaf))).await;
    let client = client.unwrap();
    let error = peer_identity(client.get_ref().1).unwrap_err();
    assert!(matches!(error, PeerError::Expired { .. }), "{error:?}");
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_from_the_next_handshake_on() {
    let world = World::new();
    let source = Arc::new(CertSource::new(&world.ca.cert(&world.server)));
    let server = server_config_with(Arc::clone(&source), &world.ca.roots(), &domain()).unwrap();
    let client = world.client_config();
    handshake(&client, &server).await.0.unwrap();
    let renewed = world.ca.cert(&world.server);
    source.replace(&renewed);
    // Another configuration, as the first would resume.
    let (client, _) = handshake(&world.client_config(), &server).await;
    let client = client.unwrap();
    assert_eq!(client.get_ref().1.peer_certificates().unwrap()[0], renewed.chain()[0]);
}

#[tokio::test]
async fn the_controller_is_known_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let authority = BuiltinAuthority::open_or_create(dir.path(), &domain()).unwrap();
    let roots = crate::Authority::roots(&authority);
    let names = ["weft-controller.weft.svc", "127.0.0.1", "::1"];
    let cert = authority.issue_server(&names, Duration::from_secs(600)).unwrap();
    let server = control_server_config(&cert).unwrap();
    let client = control_client_config(&roots).unwrap();
    for name in names {
        let (client, server) = handshake_as(&client, &server, name).await;
        assert_eq!(client.unwrap().get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        server.unwrap();
    }
    let (refused, _) = handshake_as(&client, &server, "elsewhere.test").await;
    assert!(refused.unwrap_err().to_string().contains("weft-controller.weft.svc"));
}

#[tokio::test]
async fn a_workload_cannot_pass_for_the_controller_nor_the_controller_for_a_workload() {
    let dir = tempfile::tempdir().unwrap();
    let authority = BuiltinAuthority::open_or_create(dir.path(), &domain()).unwrap();
    let roots = crate::Authority::roots(&authority);
    let (who, peer) = (id("ns/shop/sa/cart"), id("ns/shop/sa/till"));
    let request = crate::KeyRequest::new(&who).unwrap();
    let chain = crate::Authority::sign(&authority, &request.csr_pem(), &who, HOUR).unwrap();
    let workload = request.finish(chain.pem()).unwrap();

    let posing = server_config(&workload, &roots).unwrap();
    let (client, _) =
        handshake_as(&control_client_config(&roots).unwrap(), &posing, "weft-controller.weft.svc").await;
    assert!(client.is_err());

    let controller = authority.issue_server(&["weft-controller.weft.svc"], HOUR).unwrap();
    let posing = control_server_config(&controller).unwrap();
    let (client, _) = handshake(&client_config(&workload, &roots, &[peer]).unwrap(), &posing).await;
    let error = client.unwrap_err();
    assert_eq!(peer_error_in(&error), Some(PeerError::San(SanError::Missing)), "{error:?}");
}

#[test]
fn a_peer_error_is_found_under_other_errors() {
    let inner = PeerError::NoCertificate;
    let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(
        Arc::new(inner.clone()),
    )));
    assert_eq!(peer_error(&tls), Some(inner.clone()));
    let wrapped = std::io::Error::other(std::io::Error::new(std::io::ErrorKind::InvalidData, tls));
    assert_eq!(peer_error_in(&wrapped), Some(inner));
    assert_eq!(peer_error_in(&std::io::Error::other("unrelated")), None);
}
