//! Where a pod stands on its way into the mesh, and where it is to go.

use std::sync::Arc;
use std::time::Instant;

use mesh_model::{Phase, Tunnel, Workload};

use super::pod::Pod;

/// Where it stands.
pub(super) enum Stage {
    /// Nothing in the kernel says what it is.
    Unknown,
    Excluded,
    Pending,
    Captured(Arc<Pod>),
    Leaving {
        pod: Arc<Pod>,
        until: Instant,
    },
}

/// What is wanted of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Excluded,
    Captured,
}

impl Wanted {
    /// By what the API says, or else by what kubelet's logs say.
    pub(super) fn of(workload: Option<&Workload>, bootstrap: bool, stage: &Stage) -> Self {
        match workload {
            Some(workload) if workload.host_network => Self::Excluded,
            Some(workload) if workload.tunnel == Tunnel::Foreign => Self::Excluded,
            // It ran to its end under the state it had; what is left of its processes keeps it.
            Some(workload) if workload.phase == Phase::Finished => match stage {
                Stage::Captured(_) => Self::Captured,
                _ => Self::Excluded,
            },
            Some(workload) if workload.enrolled => Self::Captured,
            Some(_) => Self::Excluded,
            None if bootstrap => Self::Excluded,
            None => Self::Nothing,
        }
    }
}
