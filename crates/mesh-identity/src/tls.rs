//! TLS configurations: between agents (both sides show a SPIFFE certificate) and from agent to controller (the server
//! shows a DNS name, the client shows a token above TLS).
//!
//! Everywhere: TLS 1.3 only, ALPN `h2`, AES-128-GCM first, no 0-RTT. Sessions can be resumed, with a store per
//! configuration: a session is never resumed under other roots, another expected identity or another own certificate.
//! A resumed handshake runs no verifier, so [`peer_identity`] looks at the peer's validity again on every connection.

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use mesh_model::{Identity, TrustDomain};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use crate::certificate::{Certificate, ServerCertificate};
use crate::roots::Roots;

mod peer;
mod verifier;

pub use peer::{PeerError, peer_error, peer_error_in, peer_identity, tls_error_in};
use verifier::{Accepted, PeerVerifier};

#[cfg(test)]
mod tests;

const ALPN_H2: &[u8] = b"h2";
/// Sessions that a server keeps per configuration, and a client's tickets (8 per server address).
const SESSIONS: usize = 256;

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The cryptography does not offer TLS 1.3.
    #[error("the cryptographic provider does not offer TLS 1.3")]
    Provider(#[source] rustls::Error),
    /// A client that would accept nobody.
    #[error("no identity is expected of the server, so none could be accepted")]
    NothingExpected,
    /// The roots cannot be used to verify a server name.
    #[error("cannot verify servers with these trust anchors")]
    Roots(#[source] rustls::client::VerifierBuilderError),
}

/// aws-lc-rs with AES-128-GCM first: the mesh's data is in memory on both nodes anyway, and it is the cheapest.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        use aws_lc_rs::cipher_suite::{
            TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
        };
        let cipher_suites =
            vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
        Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
    });
    Arc::clone(&PROVIDER)
}

/// For dialling a peer's agent as `cert`: the server must lead to `roots` and be one of `expected`. The server name given
/// to rustls is not sent and not verified; it only says to whom a session belongs.
pub fn client_config(
    cert: &Certificate,
    roots: &Roots,
    expected: &[Identity],
) -> Result<Arc<ClientConfig>, TlsError> {
    if expected.is_empty() {
        return Err(TlsError::NothingExpected);
    }
    let verifier = PeerVerifier::new(roots.clone(), Accepted::AnyOf(expected.to_vec()));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(cert.certified()))));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    // The identity says who the peer is; a name in the clear would only tell an eavesdropper.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// For accepting peers as `cert`: the client must show a certificate that leads to `roots`, with one SPIFFE URI SAN of
/// `cert`'s own trust domain.
pub fn server_config(cert: &Certificate, roots: &Roots) -> Result<Arc<ServerConfig>, TlsError> {
    let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(cert.certified())));
    mesh_server(resolver, roots, cert.identity().trust_domain().clone())
}

/// The same with a certificate that can be replaced under way. `trust_domain` is the one that clients must be of.
pub fn server_config_with(
    source: Arc<CertSource>,
    roots: &Roots,
    trust_domain: &TrustDomain,
) -> Result<Arc<ServerConfig>, TlsError> {
    mesh_server(source, roots, trust_domain.clone())
}

fn mesh_server(
    resolver: Arc<dyn ResolvesServerCert>,
    roots: &Roots,
    trust_domain: TrustDomain,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = PeerVerifier::new(roots.clone(), Accepted::Domain(trust_domain));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(resolver);
    Ok(finish_server(config))
}

/// For an agent's connection to the controller: the server's DNS name (or IP address) is verified the ordinary way; the
/// client shows no certificate, it authenticates above TLS.
pub fn control_client_config(roots: &Roots) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store()), provider())
        .build()
        .map_err(TlsError::Roots)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// For the controller: `cert` for every client, no client certificate.
pub fn control_server_config(cert: &ServerCertificate) -> Result<Arc<ServerConfig>, TlsError> {
    control_server_config_with(Arc::new(CertSource::for_server(cert)))
}

/// The same with a certificate that can be replaced under way.
pub fn control_server_config_with(source: Arc<CertSource>) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(source);
    Ok(finish_server(config))
}

fn finish_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // Other meshes' clients list AES-256 first; every node that we know has AES in hardware.
    config.ignore_client_order = true;
    // Stateful: nothing about a client leaves this process, and no ticket key has to be kept or turned over.
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Arc::new(config)
}

/// A server's certificate that can be replaced while it serves: handshakes from then on show the new one.
pub struct CertSource(RwLock<Arc<CertifiedKey>>);

impl CertSource {
    /// Starts with a workload's certificate.
    pub fn new(cert: &Certificate) -> Self {
        Self(RwLock::new(Arc::clone(cert.certified())))
    }

    /// Starts with a controller's certificate.
    pub fn for_server(cert: &ServerCertificate) -> Self {
        Self(RwLock::new(Arc::clone(cert.certified())))
    }

    /// Shows this workload's certificate from the next handshake on.
    pub fn replace(&self, cert: &Certificate) {
        self.set(cert.certified());
    }

    /// Shows this controller's certificate from the next handshake on.
    pub fn replace_server(&self, cert: &ServerCertificate) {
        self.set(cert.certified());
    }

    fn set(&self, key: &Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(key);
    }
}

impl ResolvesServerCert for CertSource {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for CertSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertSource")
    }
}
