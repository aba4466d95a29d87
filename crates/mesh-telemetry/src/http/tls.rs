//! Mutual TLS for the admin routes over TCP: both ends' configurations from files, and the server's handshake.
//!
//! ```text
//! accept ──▶ handshake (5 s) ── client certificate leads to the given CA, and is no workload's ──▶ routes
//! ```
//!
//! TLS 1.3 only. The server's files are read again when they are older than a minute, so that a certificate may be renewed in its place;
//! files that cannot be read then leave the last good ones in force. No certificate that names a SPIFFE ID is let in, whoever signed it:
//! where one authority signs for people and for the mesh, a pod's certificate must not administer a node. Not here: revocation (sign for
//! days, not years), and who may ask what: whoever is let in may ask everything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[cfg(test)]
mod tests;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Files are read again after this.
const FRESH: Duration = Duration::from_secs(60);
const ALPN: &[u8] = b"http/1.1";

/// A certificate, its key, and whom it believes: files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then each issuer below the root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What the other side's certificate must lead to.
    pub ca: PathBuf,
}

/// Why files are no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is no PEM.
    #[error("{} cannot be read as PEM", .path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// There is nothing of the kind in it.
    #[error("{} holds no certificate", .0.display())]
    Empty(PathBuf),
    /// It is read, and cannot be used.
    #[error("{} cannot be used", .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// No client could be verified with it.
    #[error("no client can be verified by {}", .path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// The server's side.
pub struct MutualTls {
    files: TlsFiles,
    /// When it was made, and of what the files said then.
    current: Mutex<(Instant, Arc<ServerConfig>)>,
}

impl MutualTls {
    /// Reads the files: what is wrong with them shows here.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let config = server_config(&files)?;
        Ok(Self { files, current: Mutex::new((Instant::now(), config)) })
    }

    /// The stream of a client that is let in.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let peer = stream.peer_addr().ok();
        let handshake = TlsAcceptor::from(self.config()).accept(stream);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::info!(?peer, %error, "a client of the admin port was not let in");
                None
            }
            Err(_) => None,
        }
    }

    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() >= FRESH {
            current.0 = Instant::now();
            match server_config(&self.files) {
                Ok(config) => current.1 = config,
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, cause, "the admin port goes on with the certificates that it has");
                }
            }
        }
        current.1.clone()
    }
}

impl fmt::Debug for MutualTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutualTls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// For dialling an admin port: the server's certificate must lead to `files.ca` and be for the name that is dialled.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    let (chain, key) = identity(files)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?
        .with_root_certificates(roots(&files.ca)?)
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = identity(files)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&files.ca)?), provider())
        .build()
        .map_err(|source| TlsError::Verifier { path: files.ca.clone(), source })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?
        .with_client_cert_verifier(Arc::new(NoWorkload(verifier)))
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Unusable { path: files.cert.clone(), source })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn identity(files: &TlsFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::Pem { path: files.key.clone(), source })?;
    Ok((certificates(&files.cert)?, key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.into(), source };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(failed)?.collect();
    let all = all.map_err(failed)?;
    if all.is_empty() { Err(TlsError::Empty(path.into())) } else { Ok(all) }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|source| TlsError::Unusable { path: path.into(), source })?;
    }
    Ok(store)
}

/// Asks another verifier, and lets no workload's certificate pass.
#[derive(Debug)]
struct NoWorkload(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for NoWorkload {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // A URI stands in a certificate as its own bytes.
        const SPIFFE: &[u8] = b"spiffe://";
        if end_entity.windows(SPIFFE.len()).any(|bytes| bytes.eq_ignore_ascii_case(SPIFFE)) {
            let refused = rustls::CertificateError::ApplicationVerificationFailure;
            return Err(rustls::Error::InvalidCertificate(refused));
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
