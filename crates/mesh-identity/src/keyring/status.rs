//! What `meshctl certs` shows.

use std::time::SystemTime;

use mesh_model::Identity;
use serde::{Deserialize, Serialize};

use super::Slot;
use crate::x509::rfc3339;

/// How an identity's certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertState {
    /// Valid, and its renewal is not due.
    Valid,
    /// Valid, but it should have been renewed already.
    Expiring,
    /// Over: connections of this identity are refused.
    Expired,
    /// Asked for, no answer yet.
    Pending,
    /// There never was one, and asking failed; it is asked for again.
    Failed,
}

/// One identity's certificate as JSON. Times are RFC 3339 in UTC; what there is none of is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertStatus {
    /// Whose.
    pub identity: Identity,
    /// Lower-case hex.
    pub serial: Option<String>,
    /// Who signed it.
    pub issuer: Option<String>,
    /// Its first moment.
    pub not_before: Option<String>,
    /// Its last moment.
    pub not_after: Option<String>,
    /// How it is.
    pub state: CertState,
    /// Why the last attempt failed; `null` once one succeeded.
    pub last_error: Option<String>,
    /// When it is asked for next: at its renewal, or sooner after a failure.
    pub next: Option<String>,
}

impl CertState {
    /// The word in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

impl Slot {
    pub(super) fn status(&self, now: SystemTime) -> CertStatus {
        let note = self.note().clone();
        let entry = self.entry.borrow().clone();
        let certificate = entry.as_ref().map(|entry| entry.certificate());
        let state = match certificate {
            None if note.last_error.is_some() => CertState::Failed,
            None => CertState::Pending,
            Some(certificate) if !certificate.is_valid_at(now) => CertState::Expired,
            Some(_) if note.renew_at.is_some_and(|at| at <= now) => CertState::Expiring,
            Some(_) => CertState::Valid,
        };
        CertStatus {
            identity: self.identity.clone(),
            serial: certificate.map(|c| c.serial().to_owned()),
            issuer: certificate.map(|c| c.issuer().to_owned()),
            not_before: certificate.map(|c| rfc3339(c.not_before())),
            not_after: certificate.map(|c| rfc3339(c.not_after())),
            state,
            last_error: note.last_error,
            next: note.next.map(rfc3339),
        }
    }
}
