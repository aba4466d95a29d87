//! What people are to be told of pods and nodes: a line in the log, and an Event where there is somebody to write it.

use std::collections::BTreeMap;

use mesh_model::{Change, Reason, Uid, Workload};
use tokio::sync::broadcast;

use super::Hub;
use crate::index::Remark;

/// What is told and nobody has written down yet; older ones are lost.
pub(super) const TOLD: usize = 1_024;

/// What people are to be told: an Event, in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose agent says so; empty: the controller itself.
    pub node: String,
    /// Of which pod; `None`: of the node.
    pub uid: Option<Uid>,
    /// A word in CamelCase.
    pub reason: String,
    /// One sentence.
    pub note: String,
    /// A warning, or else normal.
    pub warning: bool,
}

impl From<Remark> for Told {
    fn from(Remark { uid, reason, note }: Remark) -> Self {
        Self { node: String::new(), uid: Some(uid), reason: reason.into(), note, warning: true }
    }
}

impl Told {
    /// A labelled pod waits for an agent on its node.
    pub(in crate::publish) fn agentless(pod: &Workload) -> Self {
        let node = &pod.node;
        let note = format!(
            "the pod is labelled for the mesh and node {node} has no Weft agent that is connected: it is outside the mesh, and its \
             peers use plaintext, until there is one (does the DaemonSet weft-agent run there?)"
        );
        Remark { uid: pod.uid.clone(), reason: "NoAgentOnNode", note }.into()
    }

    /// A labelled pod is left alone.
    fn left_alone(uid: &Uid, reason: Reason) -> Self {
        let note = format!("labelled for capture and left alone: {}", reason.as_str());
        Self {
            node: String::new(),
            uid: Some(uid.clone()),
            reason: "NotCaptured".into(),
            note,
            warning: true,
        }
    }
}

impl Hub {
    /// Tells people something, in the log and to whoever subscribed.
    pub fn tell(&self, told: Told) {
        let Told { node, uid, reason, note, warning } = &told;
        let pod = uid.as_ref().map(Uid::as_str).unwrap_or_default();
        match warning {
            true => tracing::warn!(node, pod, reason, "{note}"),
            false => tracing::info!(node, pod, reason, "{note}"),
        }
        // Nobody writes it down: the log has it.
        let _unheard = self.told.send(told);
    }

    /// What people are told from now on.
    pub fn all_told(&self) -> broadcast::Receiver<Told> {
        self.told.subscribe()
    }

    /// What the controller itself has to say of pods as they are now, for whoever comes to write it down.
    pub fn standing(&self) -> Vec<Told> {
        let state = self.state();
        let left_alone = state.left_alone.iter().map(|(uid, reason)| Told::left_alone(uid, *reason));
        let contested = state.index.contested().into_iter().map(Told::from);
        let agentless =
            state.agentless.told().filter_map(|uid| state.index.workload(uid)).map(Told::agentless);
        left_alone.chain(contested).chain(agentless).collect()
    }

    /// Namespace and name of a pod.
    pub fn pod_name(&self, uid: &Uid) -> Option<(String, String)> {
        let state = self.state();
        let workload = state.index.workload(uid)?;
        Some((workload.namespace.to_string(), workload.name.to_string()))
    }
}

/// Says once of each labelled pod that it is left alone, and why.
pub(super) fn tell_left_alone(
    told: &mut BTreeMap<Uid, Reason>,
    changes: &[Change],
    listeners: &broadcast::Sender<Told>,
) {
    for change in changes {
        match change {
            Change::Workload(workload) => match workload.left_alone {
                Some(reason) if told.insert(workload.uid.clone(), reason) != Some(reason) => {
                    let (namespace, name) = (&workload.namespace, &workload.name);
                    tracing::warn!(%namespace, %name, %reason, "a labelled pod is not captured");
                    // Nobody writes it down: the log has it.
                    let _unheard = listeners.send(Told::left_alone(&workload.uid, reason));
                }
                Some(_) => {}
                None => drop(told.remove(&workload.uid)),
            },
            Change::WorkloadRemoved(uid) => drop(told.remove(uid)),
            Change::Service(_)
            | Change::ServiceRemoved(_)
            | Change::Mesh(_)
            | Change::MeshRemoved
            | Change::Node(_)
            | Change::NodeRemoved(_)
            | Change::Policy(_)
            | Change::PolicyRemoved(_) => {}
        }
    }
}
