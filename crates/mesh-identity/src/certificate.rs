//! A certificate chain together with its private key, parsed once.
//!
//! [`Certificate`] is a workload's and has an identity; [`ServerCertificate`] is the controller's own and has DNS names.
//! Both are cheap to clone and hand rustls one shared key. Invariant: key and leaf belong together. `Debug` never shows
//! the key.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_model::Identity;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::roots::pem_blocks;
use crate::tls;
use crate::x509::{Facts, Malformed, SanError, rfc3339};

#[cfg(test)]
mod tests;

/// Why a chain and a key make no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// Not PEM, or a block is missing.
    #[error("not a PEM file with a private key and a certificate chain")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// A chain of no certificates.
    #[error("the chain holds no certificate")]
    Empty,
    /// The leaf cannot be read.
    #[error("the leaf certificate cannot be read")]
    Malformed(#[source] Malformed),
    /// The leaf names no workload.
    #[error("the leaf certificate is of no workload")]
    San(#[source] SanError),
    /// The private key is not the leaf's, or of an unknown kind.
    #[error("the private key does not fit the leaf certificate")]
    Key(#[source] rustls::Error),
    /// A key pair or request could not be made.
    #[error("cannot make a key and a request for it")]
    Generate(#[source] rcgen::Error),
    /// For somebody else.
    #[error("the certificate is for {got}, asked for was {asked}")]
    Identity {
        /// What was asked for.
        asked: Identity,
        /// What came.
        got: Identity,
    },
    /// Not valid at the moment, going by the clock here.
    #[error(
        "the certificate is valid from {} to {}, and the clock here says {}: compare it with the authority's",
        rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    Validity {
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
        /// The clock here.
        now: SystemTime,
    },
    /// The chain does not lead to any anchor that is trusted here.
    #[error(
        "the chain does not lead to a trust anchor of this node: its root file and the authority do not belong together"
    )]
    Untrusted(#[source] webpki::Error),
}

/// A workload's certificate chain and private key.
#[derive(Clone)]
pub struct Certificate {
    identity: Identity,
    pair: Arc<Pair>,
}

/// The controller's own certificate chain and private key, for its DNS names.
#[derive(Clone)]
pub struct ServerCertificate {
    pair: Arc<Pair>,
}

struct Pair {
    facts: Facts,
    key: PrivateKeyDer<'static>,
    /// The same chain and key in the form that rustls shares between connections.
    certified: Arc<CertifiedKey>,
}

impl Pair {
    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, CertError> {
        let leaf = chain.first().ok_or(CertError::Empty)?;
        let facts = Facts::read(leaf).map_err(CertError::Malformed)?;
        let certified =
            CertifiedKey::from_der(chain, key.clone_key(), &tls::provider()).map_err(CertError::Key)?;
        Ok(Self { facts, key, certified: Arc::new(certified) })
    }

    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("names", &self.facts.uris)
            .field("serial", &self.facts.serial)
            .field("not_after", &rfc3339(self.facts.not_after))
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Puts a chain (leaf first, no root) and the leaf's key together. Reads the leaf; verifies no signature.
    pub fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertError> {
        let pair = Pair::new(chain, key)?;
        let identity = pair.facts.identity().map_err(CertError::San)?;
        Ok(Self { identity, pair: Arc::new(pair) })
    }

    /// Reads what [`Self::to_pem`] wrote: a private key and a chain.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(CertError::Pem)?;
        Self::from_parts(chain_from_pem(pem)?, key)
    }

    /// Key and chain as PEM. **Secret**: for a file of mode 0600 on a memory-backed file system.
    pub fn to_pem(&self) -> String {
        let kind = match self.pair.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem_blocks(kind, [self.pair.key.secret_der()]) + &self.chain_pem()
    }

    /// The chain alone as PEM, leaf first: not secret.
    pub fn chain_pem(&self) -> String {
        pem_blocks("CERTIFICATE", self.chain().iter().map(AsRef::as_ref))
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lower-case hex with no separators.
    pub fn serial(&self) -> &str {
        &self.pair.facts.serial
    }

    /// Who signed the leaf, as an RFC 4514-like name.
    pub fn issuer(&self) -> &str {
        &self.pair.facts.issuer
    }

    /// The first moment at which it is valid (back-dated by the authority).
    pub fn not_before(&self) -> SystemTime {
        self.pair.facts.not_before
    }

    /// The last moment at which it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.pair.facts.not_after
    }

    /// Whether it is valid at `now`. Whether anybody trusts it is another question.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.pair.facts.is_valid_at(now)
    }

    /// Leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.pair.certified.cert
    }

    pub(crate) fn check_valid_at(&self, now: SystemTime) -> Result<(), CertError> {
        if self.is_valid_at(now) {
            return Ok(());
        }
        let Facts { not_before, not_after, .. } = self.pair.facts;
        Err(CertError::Validity { not_before, not_after, now })
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.pair.certified
    }
}

impl ServerCertificate {
    /// Puts a chain (leaf first, no root) and the leaf's key together.
    pub fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertError> {
        Ok(Self { pair: Arc::new(Pair::new(chain, key)?) })
    }

    /// Lower-case hex with no separators.
    pub fn serial(&self) -> &str {
        &self.pair.facts.serial
    }

    /// The first moment at which it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.pair.facts.not_before
    }

    /// The last moment at which it is valid: issue another one before.
    pub fn not_after(&self) -> SystemTime {
        self.pair.facts.not_after
    }

    /// Leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.pair.certified.cert
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.pair.certified
    }
}

/// The certificates in some PEM, at least one.
pub(crate) fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(CertError::Pem)?;
    if chain.is_empty() { Err(CertError::Empty) } else { Ok(chain) }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.debug("Certificate", f)
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pair.debug("ServerCertificate", f)
    }
}
