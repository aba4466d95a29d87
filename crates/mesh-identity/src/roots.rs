//! The trust anchors: whom the mesh believes. Several at once, so that a root can be replaced with traffic flowing: give
//! every node old and new, then sign with the new one, then take the old one away.
//!
//! The first one is the one that signs now: who makes a bundle for agents puts it there, and an agent whose certificate leads
//! to another asks for a new one before long (`keyring`). So the old root's last certificate is gone minutes after the
//! switch, and not only after a lifetime.
//!
//! Invariant: never empty. Not checked: an anchor's own expiry (webpki does not either); the authority signs nothing
//! that outlives its root, which has the same effect.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use pem::{EncodeConfig, LineEnding, Pem};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::disk::{self, DiskError};
use crate::tls;
use crate::x509::{Facts, Malformed, fingerprint};

#[cfg(test)]
mod tests;

/// A set of trust anchors, cheap to clone.
#[derive(Clone)]
pub struct Roots(Arc<Anchors>);

/// Three parallel lists, in the order of the file.
#[derive(Clone, Default)]
struct Anchors {
    ders: Vec<CertificateDer<'static>>,
    /// What webpki wants: as one slice, so that no handshake has to build it.
    anchors: Vec<TrustAnchor<'static>>,
    /// For people.
    infos: Vec<RootInfo>,
}

/// One trust anchor, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootInfo {
    /// Its subject's distinguished name.
    pub subject: String,
    /// SHA-256 of its DER, lower-case hex: what `openssl x509 -fingerprint -sha256` prints, without the colons.
    pub fingerprint: String,
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
}

/// Why trust anchors cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error(
        "cannot use {} as the mesh's trust anchors: copy the controller's STATE_DIR/root.pem there, or name the right file",
        path.display()
    )]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<RootsError>,
    },
    /// It could not be read from disk.
    #[error("the file is not readable")]
    Disk(#[source] DiskError),
    /// Not PEM.
    #[error("it is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// PEM, but with no `BEGIN CERTIFICATE` in it.
    #[error("it holds no certificate (a PEM block `BEGIN CERTIFICATE`)")]
    Empty,
    /// A block that is no certificate.
    #[error("certificate {number} in it cannot be read")]
    Malformed {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// A certificate that is of no authority, such as a leaf given by mistake.
    #[error("certificate {number} in it ({subject}) is not an authority's (CA:TRUE)")]
    NotAuthority {
        /// Which, from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
    /// An anchor that webpki cannot use.
    #[error("certificate {number} in it cannot be a trust anchor")]
    Anchor {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        #[source]
        source: webpki::Error,
    },
}

impl Roots {
    /// No anchors: nobody is believed. For a start before the roots are there; see `Keyring::replace_roots`.
    pub fn none() -> Self {
        Self(Arc::new(Anchors { ders: Vec::new(), anchors: Vec::new(), infos: Vec::new() }))
    }

    /// Reads one or more `BEGIN CERTIFICATE` blocks; other blocks and text between them are passed over.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let ders =
            CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(RootsError::Pem)?;
        Self::from_ders(ders)
    }

    /// The same from a file. The error names the file and what to do.
    pub fn from_pem_file(path: &Path) -> Result<Self, RootsError> {
        disk::read(path)
            .map_err(RootsError::Disk)
            .and_then(|pem| Self::from_pem(&pem))
            .map_err(|e| RootsError::File { path: path.to_owned(), source: Box::new(e) })
    }

    pub(crate) fn from_ders(ders: Vec<CertificateDer<'static>>) -> Result<Self, RootsError> {
        let mut all = Anchors::default();
        for (number, der) in (1..).zip(ders) {
            let facts = Facts::read(&der).map_err(|source| RootsError::Malformed { number, source })?;
            if !facts.is_ca {
                return Err(RootsError::NotAuthority { number, subject: facts.subject });
            }
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|source| RootsError::Anchor { number, source })?
                .to_owned();
            let info = RootInfo {
                subject: facts.subject,
                fingerprint: fingerprint(&der),
                not_before: facts.not_before,
                not_after: facts.not_after,
            };
            all.add(der, anchor, info);
        }
        if all.ders.is_empty() {
            return Err(RootsError::Empty);
        }
        Ok(Self(Arc::new(all)))
    }

    /// The anchors as PEM, in order.
    pub fn to_pem(&self) -> String {
        pem_blocks("CERTIFICATE", self.0.ders.iter().map(AsRef::as_ref))
    }

    /// The anchors of both, each once.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all = Anchors::clone(&self.0);
        for ((der, anchor), info) in other.0.ders.iter().zip(&other.0.anchors).zip(&other.0.infos) {
            all.add(der.clone(), anchor.clone(), info.clone());
        }
        Self(Arc::new(all))
    }

    /// Each for people, in order.
    pub fn infos(&self) -> &[RootInfo] {
        &self.0.infos
    }

    /// The first alone: the one that signs now.
    #[must_use]
    pub fn first(&self) -> Self {
        self.each().next().unwrap_or_else(Self::none)
    }

    /// Each alone, in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Self> + '_ {
        let Anchors { ders, anchors, infos } = &*self.0;
        ders.iter().zip(anchors).zip(infos).map(|((der, anchor), info)| {
            let mut one = Anchors::default();
            one.add(der.clone(), anchor.clone(), info.clone());
            Self(Arc::new(one))
        })
    }

    /// Whether all of the others are among them.
    pub fn contains_all(&self, others: &Self) -> bool {
        others.0.ders.iter().all(|der| self.contains(der))
    }

    /// Whether the certificate is one of them.
    pub(crate) fn contains(&self, der: &CertificateDer<'_>) -> bool {
        self.0.ders.iter().any(|known| known.as_ref() == der.as_ref())
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.ders.len()
    }

    /// Whether a chain, leaf first, leads to one of the anchors at `now`, for the given side of TLS.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        let algorithms = tls::provider().signature_verification_algorithms.all;
        let leaf = EndEntityCert::try_from(leaf)?;
        leaf.verify_for_usage(algorithms, &self.0.anchors, intermediates, now, usage, None, None).map(|_| ())
    }

    /// For rustls' own verifier.
    pub(crate) fn store(&self) -> RootCertStore {
        RootCertStore { roots: self.0.anchors.clone() }
    }
}

impl Anchors {
    /// Adds one that is not there yet.
    fn add(&mut self, der: CertificateDer<'static>, anchor: TrustAnchor<'static>, info: RootInfo) {
        if !self.ders.contains(&der) {
            self.ders.push(der);
            self.anchors.push(anchor);
            self.infos.push(info);
        }
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.ders == other.0.ders
    }
}

impl Eq for Roots {}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.infos.iter().map(|info| &info.subject)).finish()
    }
}

/// PEM blocks of one kind (RFC 7468).
pub(crate) fn pem_blocks<'a>(kind: &str, ders: impl IntoIterator<Item = &'a [u8]>) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    ders.into_iter().map(|der| pem::encode_config(&Pem::new(kind, der), config)).collect()
}
