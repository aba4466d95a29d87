//! What the actor asks of a pod's entry. Not here: anything that changes one.

use std::sync::Arc;

use mesh_model::{PodState, Reason, Uid, Workload};

use super::Entry;
use crate::pods::find;
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

    /// Its namespace, or the one that a predecessor of this agent knew it by, while it is neither captured nor left alone.
    pub(in crate::pods) fn cookie_of_pending(&self) -> Option<u64> {
        let is_pending = matches!(self.stage, Stage::Unknown | Stage::Pending) && self.cgroup.is_some();
        is_pending.then(|| self.cookie().or(self.hint)).flatten()
    }

    /// How people know it.
    pub(in crate::pods) fn display(&self, uid: &Uid) -> String {
        match (&self.workload, &self.bootstrap) {
            (Some(workload), _) => format!("{}/{}", workload.namespace, workload.name),
            (None, Some((namespace, name))) => format!("{namespace}/{name}"),
            (None, None) => uid.to_string(),
        }
    }

    /// The captured pod.
    pub(in crate::pods) fn captured_pod(&self) -> Option<&Arc<Pod>> {
        match &self.stage {
            Stage::Captured(pod) => Some(pod),
            _ => None,
        }
    }

    /// Whether something may run in it whose namespace nobody has looked for, or found. `host`: the inode of the host's. (The API
    /// knows a static pod by another UID than kubelet's, and so nothing of its network.)
    pub(in crate::pods) fn may_run_unseen(&self, host: Option<u64>) -> bool {
        let on_host = self.workload.as_ref().is_some_and(|workload| workload.host_network);
        let unseen = self.cgroup.as_ref().filter(|_| self.netns.is_none() && !on_host);
        unseen.is_some_and(|(path, _)| find::is_populated(path) && !find::is_on_host(path, host))
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
