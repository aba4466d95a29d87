//! Who is on the other end, and why it was not believed.

use std::error::Error;
use std::io;
use std::time::SystemTime;

use mesh_model::{Identity, Reason, TrustDomain};
use rustls::{CertificateError, CommonState, OtherError};

use crate::x509::{Facts, Malformed, SanError, rfc3339};

/// Why a peer's certificate was not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// The peer showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// Its certificate cannot be read.
    #[error("the peer's certificate cannot be read")]
    Malformed(#[source] Malformed),
    /// The chain does not lead to a trust anchor, or may not be used for this.
    #[error("the peer's certificate chain was not accepted")]
    Chain(#[source] webpki::Error),
    /// A certificate in its chain is over.
    #[error(
        "the peer's certificate has expired: it is valid from {} to {}, and the clock here says \
         {}: compare the clocks, and look whether the peer's agent reaches its controller",
        rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    Expired {
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
        /// The clock here.
        now: SystemTime,
    },
    /// A certificate in its chain has not begun.
    #[error(
        "the peer's certificate is not valid yet: it is valid from {} to {}, and the clock here says \
         {}: compare the clocks of this node, the peer's and the controller's",
        rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    NotYetValid {
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
        /// The clock here.
        now: SystemTime,
    },
    /// Its certificate is good, and names no workload of a mesh.
    #[error("the peer's certificate does not say which workload it is")]
    San(#[from] SanError),
    /// Its certificate is good, and somebody else's.
    #[error("the peer is {got}, expected was {}", list(expected))]
    Unexpected {
        /// Who would have been accepted.
        expected: Vec<Identity>,
        /// Who it is.
        got: Identity,
    },
    /// Its certificate is good, and of another trust domain.
    #[error("the peer {got} is not of the trust domain {expected}")]
    TrustDomain {
        /// The trust domain here.
        expected: TrustDomain,
        /// Who it is.
        got: Identity,
    },
}

impl PeerError {
    /// The word for logs, metrics and JSON.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unexpected { .. } | Self::TrustDomain { .. } | Self::San(_) => Reason::PeerIdentity,
            Self::NoCertificate
            | Self::Malformed(_)
            | Self::Chain(_)
            | Self::Expired { .. }
            | Self::NotYetValid { .. } => Reason::TlsHandshake,
        }
    }

    /// Fails where a certificate is not valid at `now`.
    pub(super) fn check_validity(facts: &Facts, now: SystemTime) -> Result<(), Self> {
        let Facts { not_before, not_after, .. } = *facts;
        if now < not_before {
            Err(Self::NotYetValid { not_before, not_after, now })
        } else if now > not_after {
            Err(Self::Expired { not_before, not_after, now })
        } else {
            Ok(())
        }
    }
}

fn list(identities: &[Identity]) -> String {
    identities.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// The identity of the peer of an established connection, from its end-entity certificate. To be called on every
/// connection: a certificate that expired since the session began is an error here even where the handshake, being a
/// resumption, did not look.
pub fn peer_identity(conn: &CommonState) -> Result<Identity, PeerError> {
    let leaf = conn.peer_certificates().and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
    let facts = Facts::read(leaf).map_err(PeerError::Malformed)?;
    PeerError::check_validity(&facts, SystemTime::now())?;
    Ok(facts.identity()?)
}

/// What the mesh's verifier said, where it is the cause of a failed handshake.
pub fn peer_error(error: &rustls::Error) -> Option<&PeerError> {
    static NO_CERTIFICATE: PeerError = PeerError::NoCertificate;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        rustls::Error::NoCertificatesPresented => Some(&NO_CERTIFICATE),
        _ => None,
    }
}

/// The same, anywhere in an error's chain of causes; `std::io::Error` (what tokio-rustls returns) is looked into.
pub fn peer_error_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a PeerError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<PeerError>() {
            return Some(found);
        }
        if let Some(found) = error.downcast_ref::<rustls::Error>().and_then(peer_error) {
            return Some(found);
        }
        // An io::Error's source() is its inner error's source: the inner error itself would be skipped.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
