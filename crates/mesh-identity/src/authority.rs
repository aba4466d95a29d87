//! Who signs. [`Authority`] is the seam: cert-manager or SPIRE can stand where [`BuiltinAuthority`] does.
//!
//! The identity to sign is an argument, decided by the caller from what it knows of the asking node. A request is only
//! believed in one thing: that its sender holds the private key. One that names another identity is refused all the
//! same, as its sender is confused about what it will get.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use mesh_model::{Identity, TrustDomain};

use crate::certificate::{CertError, ServerCertificate};
use crate::disk::DiskError;
use crate::roots::{Roots, RootsError};
use crate::x509::rfc3339;

mod builtin;
mod csr;
mod given;
mod live;

pub use builtin::BuiltinAuthority;
pub use csr::CsrError;
pub use given::{AuthorityPem, Named};
pub use live::LiveAuthority;

#[cfg(test)]
mod tests;

/// Signs requests for identities.
pub trait Authority: Send + Sync {
    /// Signs the key in `csr_pem` for `identity`, valid from now (back-dated) for `lifetime`, or less where the
    /// authority itself ends sooner.
    fn sign(
        &self,
        csr_pem: &str,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<SignedChain, AuthorityError>;

    /// A certificate with which the controller serves TLS for `names` (DNS names and IP addresses). The key is made
    /// here. It has no identity of the mesh, and no workload's certificate has a DNS name: neither passes for the other.
    fn issue_server(&self, names: &[&str], lifetime: Duration) -> Result<ServerCertificate, AuthorityError>;

    /// Whom the mesh trusts: first the anchor to which what it signs leads, then those that are trusted beside it while
    /// one takes the other's place.
    fn roots(&self) -> Roots;
}

/// A signed chain as PEM: leaf first, then what stands between it and the root, without the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedChain(pub String);

impl SignedChain {
    /// The PEM text.
    pub fn pem(&self) -> &str {
        &self.0
    }

    /// The PEM text, owned.
    pub fn into_pem(self) -> String {
        self.0
    }
}

impl From<SignedChain> for String {
    fn from(chain: SignedChain) -> Self {
        chain.0
    }
}

impl fmt::Display for SignedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why the authority cannot be opened, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority cannot be used as it is.
    #[error("cannot use the authority's files")]
    Disk(#[from] DiskError),
    /// The root certificate is there and its key is not.
    #[error(
        "{} is there but {} is not: put the key back, or \
         remove the root to make a new authority (every agent then needs the new root)",
        root.display(), key.display()
    )]
    KeyMissing {
        /// The root certificate that is there.
        root: PathBuf,
        /// The key that is not.
        key: PathBuf,
    },
    /// The other trust anchors cannot be read.
    #[error("{} holds no trust anchors", path.display())]
    Anchors {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: RootsError,
    },
    /// The key file holds no private key of a kind that can sign.
    #[error("{} holds no private key that can be used (PEM; ECDSA P-256 or P-384, or RSA)", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate file holds no authority's certificate.
    #[error("{} holds no certificate authority's certificate", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: RootsError,
    },
    /// A certificate that may not sign others.
    #[error("the certificate in {} may not sign certificates: its key usage lacks keyCertSign", path.display())]
    MayNotSign {
        /// Which file.
        path: PathBuf,
    },
    /// Key and certificate are of two authorities.
    #[error("the key in {} does not belong to the first certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The authority's certificate is over, or has not begun.
    #[error(
        "the authority's certificate in {} is valid from {} to {}, and the clock here says \
         {}: correct the clock, or give a new authority",
        path.display(), rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    Validity {
        /// Which file.
        path: PathBuf,
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
        /// The clock here.
        now: SystemTime,
    },
    /// Made for another trust domain.
    #[error(
        "the authority in {} is for {found}, the controller was started for \
         spiffe://{wanted}: give it that --trust-domain, or another state directory",
        path.display()
    )]
    TrustDomain {
        /// Which file.
        path: PathBuf,
        /// The URI in its certificate.
        found: String,
        /// What it should be.
        wanted: TrustDomain,
    },
    /// What it signs would not be believed: intermediates missing or out of order, a path length exceeded …
    #[error(
        "what the authority in {} signs does not verify: \
         it must hold its certificate, then each issuer up to a root that is trusted",
        path.display()
    )]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What the verifier said.
        #[source]
        source: webpki::Error,
    },
    /// The request is no good.
    #[error("the signing request is refused")]
    Csr(#[from] CsrError),
    /// An identity of another trust domain.
    #[error("{identity} is not in this authority's trust domain {trust_domain}")]
    ForeignIdentity {
        /// Whose certificate was asked for.
        identity: Identity,
        /// What this authority signs.
        trust_domain: TrustDomain,
    },
    /// The authority itself has ended.
    #[error("the authority ended at {}: give the controller a new one", rfc3339(*not_after))]
    Ended {
        /// Its last moment.
        not_after: SystemTime,
    },
    /// A lifetime or a DNS name that cannot be put into a certificate.
    #[error("cannot make a certificate: {0}")]
    Request(String),
    /// Signing failed.
    #[error("signing failed")]
    Sign(#[source] rcgen::Error),
    /// What was signed cannot be read back.
    #[error("what was signed cannot be used")]
    Result(#[source] CertError),
}
