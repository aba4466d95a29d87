//! Who is on the other end, and why it was not believed.

use std::cell::RefCell;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_model::{Identity, Reason, TrustDomain};
use rustls::{CertificateError, CommonState, OtherError};
use rustls_pki_types::UnixTime;

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
        "the peer's certificate has expired: the certificate of {whose} is valid from {} to {}, and this node's \
         clock says {}: compare the clocks, and look whether the peer's agent reaches its controller",
        rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    Expired {
        /// The names in it, as far as they go: nobody has vouched for them at this moment.
        whose: String,
        /// Its first moment.
        not_before: SystemTime,
        /// Its last moment.
        not_after: SystemTime,
        /// The clock here.
        now: SystemTime,
    },
    /// A certificate in its chain has not begun.
    #[error(
        "the peer's certificate is not valid yet: the certificate of {whose} is valid from {} to {}, and this \
         node's clock says {}: compare the clocks of this node, the peer's and the controller's",
        rfc3339(*not_before), rfc3339(*not_after), rfc3339(*now)
    )]
    NotYetValid {
        /// The names in it, as far as they go: nobody has vouched for them at this moment.
        whose: String,
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
            Self::NoCertificate => Reason::NoPeerCertificate,
            Self::Chain(webpki::Error::UnknownIssuer) => Reason::UntrustedRoot,
            Self::Malformed(_) | Self::Chain(_) => Reason::BadCertificate,
            Self::Expired { .. } => Reason::CertificateExpired,
            Self::NotYetValid { .. } => Reason::CertificateNotYetValid,
            Self::San(_) => Reason::BadSan,
            Self::Unexpected { .. } | Self::TrustDomain { .. } => Reason::PeerIdentity,
        }
    }

    /// The same in rustls' words, which decide about the alert that the peer gets.
    pub(super) fn told(&self) -> CertificateError {
        use webpki::Error as Chain;
        match self {
            // certificate_expired for both (RFC 8446, section 6.2: expired or not currently valid).
            Self::Expired { not_after, now, .. } => {
                CertificateError::ExpiredContext { time: unix(*now), not_after: unix(*not_after) }
            }
            Self::NotYetValid { not_before, now, .. } => {
                CertificateError::NotValidYetContext { time: unix(*now), not_before: unix(*not_before) }
            }
            // unknown_ca.
            Self::Chain(Chain::UnknownIssuer) => CertificateError::UnknownIssuer,
            // unsupported_certificate.
            Self::Chain(Chain::RequiredEkuNotFoundContext(_)) => CertificateError::InvalidPurpose,
            // bad_certificate.
            Self::Malformed(_) | Self::Chain(Chain::BadDer) => CertificateError::BadEncoding,
            // access_denied.
            Self::Unexpected { .. } | Self::TrustDomain { .. } => {
                CertificateError::ApplicationVerificationFailure
            }
            // certificate_unknown: some other issue renders it unacceptable.
            Self::Chain(_) | Self::San(_) | Self::NoCertificate => {
                CertificateError::Other(OtherError(Arc::new(self.clone())))
            }
        }
    }

    /// Fails where a certificate is not valid at `now`.
    pub(super) fn check_validity(facts: &Facts, now: SystemTime) -> Result<(), Self> {
        let Facts { not_before, not_after, .. } = *facts;
        let whose = || match facts.uris.as_slice() {
            [] => facts.subject.clone(),
            uris => uris.join(" and "),
        };
        if now < not_before {
            Err(Self::NotYetValid { whose: whose(), not_before, not_after, now })
        } else if now > not_after {
            Err(Self::Expired { whose: whose(), not_before, not_after, now })
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

thread_local! {
    /// What the verifier of this thread last refused, beside what rustls was told of it.
    static REFUSED: RefCell<Option<(CertificateError, PeerError)>> = const { RefCell::new(None) };
}

/// What rustls is told of a refusal. Its own words, which decide about the alert, have no room for ours: those are kept
/// until [`peer_error`] asks for them.
pub(super) fn refuse(error: PeerError) -> rustls::Error {
    let told = error.told();
    REFUSED.set(Some((told.clone(), error)));
    rustls::Error::InvalidCertificate(told)
}

/// What the mesh's verifier said, where it is the cause of a failed handshake. To be asked in the same poll that failed:
/// a later refusal on the thread takes the place of an earlier one.
pub fn peer_error(error: &rustls::Error) -> Option<PeerError> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref().cloned()
        }
        rustls::Error::InvalidCertificate(told) => REFUSED.with_borrow(|refused| {
            refused.as_ref().filter(|(words, _)| words == told).map(|(_, error)| error.clone())
        }),
        rustls::Error::NoCertificatesPresented => Some(PeerError::NoCertificate),
        _ => None,
    }
}

/// The same, anywhere in an error's chain of causes; `std::io::Error` (what tokio-rustls returns) is looked into.
pub fn peer_error_in(error: &(dyn Error + 'static)) -> Option<PeerError> {
    if let Some(tls) = tls_error_in(error)
        && let Some(found) = peer_error(tls)
    {
        return Some(found);
    }
    find(error, |error| error.downcast_ref::<PeerError>()).cloned()
}

/// What rustls said, anywhere in an error's chain of causes.
pub fn tls_error_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    find(error, |error| error.downcast_ref::<rustls::Error>())
}

fn find<'a, T>(
    error: &'a (dyn Error + 'static),
    look: impl Fn(&'a (dyn Error + 'static)) -> Option<&'a T>,
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = look(error) {
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

fn unix(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}
