//! What the actor asks of a pod's entry. Not here: anything that changes one.

use std::sync::Arc;

use mesh_model::{PodState, Reason, Workload};

use super::Entry;
use crate::pods::pod::Pod;
use crate::pods::stage::Stage;

impl Entry {
    pub(in crate::pods) fn workload(&self) -> Option<&Arc<Workload>> {
        self.workload.as_ref()
    }

    pub(in crate::pods) fn bootstrap(&self) -> Option<&(String, String)> {
        self.bootstrap.as_ref()
    }

    pub(in crate::pods) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    pub(in crate::pods) fn has_cgroup(&self) -> bool {
        self.cgroup.is_some()
    }

    pub(in crate::pods) fn cgroup_id(&self) -> Option<u64> {
        self.cgroup.as_ref().map(|(_, id)| *id)
    }

    pub(in crate::pods) fn cookie(&self) -> Option<u64> {
        self.netns.as_ref().map(|netns| netns.cookie())
    }

    /// The pod whose listeners there are.
    pub(in crate::pods) fn enrolled_pod(&self) -> Option<&Arc<Pod>> {
        match &self.stage {
            Stage::Captured(pod) | Stage::Leaving { pod, .. } => Some(pod),
            Stage::Unknown | Stage::Excluded | Stage::Pending => None,
        }
    }

    /// Whether addresses and hooks of the namespace that a predecessor left are to stay: they refuse until the pod is
    /// taken in.
    pub(in crate::pods) fn may_be_enrolled(&self) -> bool {
        !matches!(self.stage, Stage::Unknown | Stage::Excluded)
    }

    /// What `meshctl pods` says. A leaving pod's new connections are untouched.
    pub(in crate::pods) fn state(&self) -> PodState {
        match self.stage {
            Stage::Unknown => PodState::Unknown,
            Stage::Excluded | Stage::Leaving { .. } => PodState::Excluded,
            Stage::Pending => PodState::Pending,
            Stage::Captured(_) => PodState::Captured,
        }
    }
}
