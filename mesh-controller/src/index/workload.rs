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
            bindings: self.bindings(pod),
        })
    }

    /// What the pod says of itself decides, before what its namespace says of all. Of two things that it says of
    /// itself the label: who asked for capture must not get plaintext out ([`Self::has_two_agents`] complains).
    fn is_wanted(&self, pod: &PodFact) -> bool {
        let namespace = self.namespaces.get(&pod.namespace).and_then(|namespace| namespace.capture);
        let elsewhere = pod.foreign.then_some(false);
        pod.capture.or(elsewhere).or(namespace).unwrap_or(false) && pod.phase != Phase::Finished
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

    /// Its own label asks for Weft's agent, its annotation says that it has another mesh's.
    pub(super) fn has_two_agents(&self, pod: &PodFact) -> bool {
        pod.foreign && self.is_wanted(pod) && self.left_alone(pod).is_none()
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
