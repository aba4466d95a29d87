//! A Pod, its Namespace's label and its agent's word make a workload.

use mesh_model::{Phase, Tunnel, Uid, Workload};

use super::facts::PodFact;
use super::{Index, Word};

impl Index {
    pub(super) fn make_workload(&self, uid: &Uid) -> Option<Workload> {
        let pod = self.pod_of(uid)?;
        let enrolled = self.is_enrolled(pod);
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
            tunnel: tunnel(pod, enrolled, self.captures.word(uid, &pod.node)),
            phase: pod.phase,
            host_network: pod.host_network,
        })
    }

    /// What the pod says of itself decides, before what its namespace says of all. Of two things that it says of
    /// itself the label: who asked for capture must not get plaintext out ([`Self::has_two_agents`] complains).
    pub(super) fn is_enrolled(&self, pod: &PodFact) -> bool {
        let namespace = self.namespaces.get(&pod.namespace).and_then(|namespace| namespace.capture);
        let elsewhere = pod.foreign.then_some(false);
        let wanted = pod.capture.or(elsewhere).or(namespace).unwrap_or(false);
        wanted && !pod.host_network && pod.phase != Phase::Finished
    }

    /// Its own label asks for Weft's agent, its annotation says that it has another mesh's.
    pub(super) fn has_two_agents(&self, pod: &PodFact) -> bool {
        pod.foreign && self.is_enrolled(pod)
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
