//! A Pod, its Namespace's label and its agent's word make a workload.

use mesh_model::{Phase, Reason, Tunnel, Uid, Workload};

use super::facts::{PodFact, is_sandbox};
use super::{Index, Word};

impl Index {
    pub(super) fn make_workload(&self, uid: &Uid) -> Option<Workload> {
        let pod = self.pod_of(uid)?;
        let wanted = self.is_wanted(pod);
        let left_alone = self.left_alone(pod).filter(|_| wanted);
        let enrolled = wanted && left_alone.is_none();
        let owns_addresses = !pod.host_network && pod.phase != Phase::Finished;
        Some(Workload {
            uid: uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            owner: pod.owner.clone(),
            node: pod.node.clone(),
            identity: pod.identity.clone(),
            addresses: if owns_addresses { pod.addresses.clone() } else { Vec::new() },
            enrolled,
            left_alone,
            tunnel: tunnel(pod, enrolled, self.captures.word(uid, &pod.node)),
            phase: pod.phase,
            host_network: pod.host_network,
        })
    }

    /// The namespace's label or the pod's own; the pod's own decides where there is one.
    fn is_wanted(&self, pod: &PodFact) -> bool {
        let namespace = self.namespaces.get(&pod.namespace).and_then(|namespace| namespace.capture);
        pod.capture.or(namespace).unwrap_or(false) && pod.phase != Phase::Finished
    }

    /// Why a pod cannot be captured, or must not be.
    fn left_alone(&self, pod: &PodFact) -> Option<Reason> {
        if pod.host_network {
            return Some(Reason::HostNetwork);
        }
        let class = pod.runtime_class.as_ref();
        let handler = class.and_then(|class| self.runtime_classes.get(class));
        if class.into_iter().chain(handler).any(|name| is_sandbox(name)) {
            return Some(Reason::SandboxedRuntime);
        }
        pod.other_mesh
    }
}

fn tunnel(pod: &PodFact, enrolled: bool, word: Option<Word>) -> Tunnel {
    match (enrolled, word) {
        (false, _) if pod.foreign => Tunnel::Foreign,
        (true, Some(Word::Captured)) => Tunnel::Hbone,
        (true, Some(Word::Withdrawn)) => Tunnel::Withdrawn,
        // The label is gone: peers are told at once, before the agent has said that it leaves.
        (false, Some(Word::Captured | Word::Withdrawn)) => Tunnel::Withdrawn,
        (_, None) => Tunnel::None,
    }
}
