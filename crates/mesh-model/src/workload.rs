//! A pod as the mesh knows it: where it runs, who it is, how it is reached.
//!
//! The controller makes workloads out of Kubernetes-shaped facts; agents receive them and never change them, but for
//! one rule of their own ([`Tunnel`]: what was once reported captured stays so until withdrawn).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::Bindings;
use crate::{Identity, Reason};

/// A Pod's UID as Kubernetes writes it (for a static pod: the one its cgroup carries).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uid(Arc<str>);

/// A pod and what the mesh needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Unique over the mesh and over time.
    pub uid: Uid,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Pod name.
    pub name: Arc<str>,
    /// What the pod is one replica of (Deployment, StatefulSet, Job …, or the pod itself): the `workload` label of metrics.
    pub owner: Arc<str>,
    /// Node the pod is scheduled on; empty while it is not.
    pub node: Arc<str>,
    /// From the pod's service account and the mesh's trust domain.
    pub identity: Identity,
    /// The pod's own addresses; empty before the sandbox has one, once it has finished, and on the host's network.
    pub addresses: Vec<IpAddr>,
    /// The operator wants this pod in the mesh (labels of namespace and pod), and it can be.
    pub enrolled: bool,
    /// Why the pod is left alone although the operator wants it in the mesh; never together with `enrolled`.
    pub left_alone: Option<Reason>,
    /// How its peers may reach it, as last reported by its own agent.
    pub tunnel: Tunnel,
    /// Where in its life the pod is.
    pub phase: Phase,
    /// Shares the host's network namespace: never captured, owns no address.
    pub host_network: bool,
    /// What policies say of this workload by name; most have none.
    pub bindings: Option<Box<Bindings>>,
}

/// What a workload's own agent said of its capture. The controller passes it on and forgets it for no lost stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Never reported captured: peers use plaintext.
    #[default]
    None,
    /// Reported captured: peers use HBONE and nothing else.
    Hbone,
    /// Was captured and is no more, by its own agent's word or because the label is gone: peers use plaintext again.
    Withdrawn,
    /// Annotated `weft.dev/tunnel: hbone`: another mesh's agent serves HBONE at the pod's own address; no report is waited for.
    Foreign,
}

/// Where in its life a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Scheduled or starting.
    #[default]
    Pending,
    /// Started.
    Running,
    /// Has a deletion timestamp; keeps capture, certificate and listeners until its cgroup is empty.
    Terminating,
    /// Succeeded or Failed: owns no address any more, whatever its status says.
    Finished,
}

/// What the node does with a pod's connections (the words of `meshctl pods`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodState {
    /// Goes through the mesh.
    Captured,
    /// To be captured, not ready: its connects are refused.
    Pending,
    /// Outside the mesh, untouched.
    Excluded,
    /// Nobody has said what it is: its connects are refused (`unknownPods: refuse`).
    #[default]
    Unknown,
}

impl Uid {
    /// Takes a UID as it stands.
    pub fn new(uid: &str) -> Self {
        Self(uid.into())
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tunnel {
    /// Peers must use HBONE.
    pub fn is_hbone(self) -> bool {
        matches!(self, Tunnel::Hbone | Tunnel::Foreign)
    }
}

impl Workload {
    /// The addresses by which other pods find this one: none for a finished pod or one on the host's network.
    pub fn owned_addresses(&self) -> &[IpAddr] {
        if self.host_network || self.phase == Phase::Finished { &[] } else { &self.addresses }
    }
}
