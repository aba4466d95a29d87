//! For the tests of this crate: an authority that signs anything, however wrong, and handshakes over memory.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_model::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{BuiltinAuthority, Certificate, Roots, disk, tls};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn id(text: &str) -> Identity {
    format!("spiffe://mesh.test/{text}").parse().unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("mesh.test").unwrap()
}

/// An authority with no scruples.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is to say. The default is what the mesh issues, for nobody.
pub(crate) struct Leaf {
    pub(crate) sans: Vec<SanType>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            sans: Vec::new(),
            not_before: SystemTime::now() - HOUR,
            not_after: SystemTime::now() + HOUR,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

impl Leaf {
    pub(crate) fn of(uris: &[&str]) -> Self {
        let sans = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        Self { sans, ..Self::default() }
    }
}

/// A chain and its key, which may be too odd for a [`Certificate`].
pub(crate) type Raw = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(ca_params(name))
    }

    pub(crate) fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { der, key_pem: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_ders(vec![self.der.clone()]).unwrap()
    }

    /// The built-in authority with this one's key.
    pub(crate) fn authority(&self) -> BuiltinAuthority {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("root.pem"), dir.path().join("ca.key"));
        disk::write_whole(&cert, self.roots().to_pem().as_bytes(), 0o644).unwrap();
        disk::write_whole(&key, self.key_pem.as_bytes(), 0o600).unwrap();
        BuiltinAuthority::from_files(&cert, &key, &domain()).unwrap()
    }

    pub(crate) fn raw(&self, leaf: Leaf) -> Raw {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf.sans;
        params.not_before = leaf.not_before.into();
        params.not_after = leaf.not_after.into();
        params.extended_key_usages = leaf.purposes;
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (vec![cert.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    pub(crate) fn cert(&self, identity: &Identity) -> Certificate {
        let (chain, key) = self.raw(Leaf::of(&[&identity.to_string()]));
        Certificate::from_parts(chain, key).unwrap()
    }
}

/// A server that shows `raw` and asks for nothing.
pub(crate) fn careless_server((chain, key): Raw) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A client that shows `raw`, if anything, and believes everything.
pub(crate) fn careless_client(raw: Option<Raw>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match raw {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

type Ends = (io::Result<client::TlsStream<DuplexStream>>, io::Result<server::TlsStream<DuplexStream>>);

/// A handshake and one byte each way, so that TLS 1.3 tickets and late alerts arrive.
pub(crate) async fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Ends {
    handshake_as(client, server, "10.0.0.1").await
}

pub(crate) async fn handshake_as(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Ends {
    let (near, far) = duplex(1 << 16);
    let connecting = async {
        let name = ServerName::try_from(name).unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server)).accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"y").await?;
        stream.flush().await?;
        Ok(stream)
    };
    tokio::join!(connecting, accepting)
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
