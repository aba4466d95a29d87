//! Certificates as another mesh's agents have them, and TLS with them: the chain must lead to the mesh's root, and the one
//! URI in the leaf's names says who it is.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use lab::Lab;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The lab's authority: its root, and what signs below it.
#[derive(Debug)]
pub struct Authority {
    root: String,
    key: String,
}

/// Of what kind a certificate's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// ECDSA P-256: what ztunnel makes.
    P256,
    /// ECDSA P-384.
    P384,
    /// RSA, 2048 bits.
    Rsa,
}

/// A chain, leaf first and without the root, and the leaf's key.
#[derive(Debug)]
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

/// What a peer's cryptography offers; everything, where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Key exchange.
    pub groups: Option<Vec<&'static dyn SupportedKxGroup>>,
    /// Cipher suites.
    pub suites: Option<Vec<SupportedCipherSuite>>,
}

impl Authority {
    /// Of a lab whose mesh runs.
    pub fn of(lab: &Lab) -> Result<Self> {
        let root = lab.controller().root_cert();
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self { root: read(&root)?, key: read(&root.with_file_name("ca.key"))? })
    }

    /// A certificate for an identity, signed by the root.
    pub fn issue(&self, identity: &str, key: Key) -> Result<Credentials> {
        self.sign(identity, key, &self.issuer()?, Vec::new())
    }

    /// The same through an authority between it and the root, whose certificate the chain has.
    pub fn issue_through(&self, identity: &str, key: Key) -> Result<Credentials> {
        let between = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "between");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.signed_by(&between, &self.issuer()?)?;
        let chain = vec![cert.der().clone()];
        self.sign(identity, key, &Issuer::new(params, between), chain)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>> {
        Ok(Issuer::from_ca_cert_pem(&self.root, KeyPair::from_pem(&self.key)?)?)
    }

    fn sign(
        &self,
        identity: &str,
        key: Key,
        issuer: &Issuer<'_, KeyPair>,
        mut above: Vec<CertificateDer<'static>>,
    ) -> Result<Credentials> {
        let pair = match key {
            Key::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            Key::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
            Key::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let mut chain = vec![params.signed_by(&pair, issuer)?.der().clone()];
        chain.append(&mut above);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes())?)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok(Credentials { chain, key, roots: Arc::new(roots) })
    }
}

impl Offer {
    fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(groups) = &self.groups {
            provider.kx_groups.clone_from(groups);
        }
        if let Some(suites) = &self.suites {
            provider.cipher_suites.clone_from(suites);
        }
        Arc::new(provider)
    }
}

impl Credentials {
    /// For a client that takes nobody but `expected` on the other end.
    pub fn client(&self, expected: &str, offer: &Offer) -> Result<ClientConfig> {
        let provider = offer.provider();
        let verifier =
            Expected { identity: expected.into(), roots: self.roots.clone(), provider: provider.clone() };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(config)
    }

    /// For a server that takes whoever the mesh's root vouches for.
    pub fn server(&self, offer: &Offer) -> Result<ServerConfig> {
        let provider = offer.provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Who a certificate is of: its one URI.
pub fn identity(cert: &CertificateDer<'_>) -> Result<String> {
    let (_, cert) = X509Certificate::from_der(cert)?;
    let names = cert.subject_alternative_name()?.context("no subject alternative name")?;
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    let uris: Vec<String> = names.value.general_names.iter().filter_map(uri).collect();
    match uris.as_slice() {
        [one] => Ok(one.clone()),
        other => bail!("its URIs are {other:?}"),
    }
}

/// The chain first, then the name.
#[derive(Debug)]
struct Expected {
    identity: String,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            above,
            now,
            algorithms,
        )?;
        match identity(leaf) {
            Ok(got) if got == self.identity => Ok(ServerCertVerified::assertion()),
            other => Err(Error::General(format!("expected {}, got {other:?}", self.identity))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
