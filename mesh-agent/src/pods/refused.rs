//! Why a pod could not be taken in: the word for `meshctl pods`, and what went wrong.

use std::io;

use mesh_model::Reason;

use super::listeners;
use crate::kernel::MapFailure;
use crate::outbound::Chain;

/// Why a pod could not be taken in.
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Refused {
    /// Of a socket or file.
    pub(super) fn of(error: &io::Error) -> Self {
        let reason = if listeners::is_exhausted(error) { Reason::Exhausted } else { Reason::CaptureFailed };
        Self { reason, detail: error.to_string() }
    }
}

impl From<MapFailure> for Refused {
    fn from(error: MapFailure) -> Self {
        let reason = if error.is_full() { Reason::MapFull } else { Reason::CaptureFailed };
        Self { reason, detail: Chain(&error).to_string() }
    }
}
