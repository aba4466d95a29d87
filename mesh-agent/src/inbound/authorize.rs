//! Whether a connection may be delivered: to this destination at all, and by the policies that are about the pod.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::ListenerKey;
use mesh_model::policy::{Judgement, Peer, Verdict};
use mesh_model::{Reason, Workload, World};

use super::Inbound;
use crate::connections::{About, End};
use crate::pods::Pod;

/// Why not.
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) detail: String,
}

/// The destination must be the pod's own address, and none of the agent's ports there.
pub(super) fn destination(pod: &Pod, target: SocketAddr) -> Result<(), Refused> {
    let refused = |reason| Refused { reason, detail: "not a port of an application of this pod".into() };
    if !pod.owns(target.ip()) {
        Err(refused(Reason::ForeignAuthority))
    } else if ListenerKey::is_agents(target.port().into()) {
        Err(refused(Reason::AgentPort))
    } else {
        Ok(())
    }
}

impl Inbound {
    /// Asked before the application hears of a connection, and once more when it is in the table: from then on a change of
    /// policy finds it there, and before it is too early.
    pub(super) fn admit(&self, pod: &Pod, about: &About) -> Result<(), Refused> {
        let world = self.world.load();
        let workload = as_of_now(&world, pod);
        let judgement = judge(&world, workload, about);
        if let Some(audit) = judgement.audit {
            self.connections.audit(about, &audit);
        }
        refusal(&judgement.verdict).map_or(Ok(()), Err)
    }

    /// The second look.
    pub(super) fn is_still_admitted(&self, pod: &Pod, about: &About) -> Result<(), Refused> {
        let world = self.world.load();
        let workload = as_of_now(&world, pod);
        refusal(&judge(&world, workload, about).verdict).map_or(Ok(()), Err)
    }
}

fn judge<'a>(world: &'a World, workload: &'a Workload, about: &About) -> Judgement<'a> {
    let End { identity, address, .. } = &about.source;
    let peer = Peer { identity: identity.as_ref(), address: address.ip().to_canonical() };
    world.judge(workload, peer, about.destination.address.port())
}

/// What the API last said of the pod; it may have forgotten it.
fn as_of_now<'a>(world: &'a World, pod: &'a Pod) -> &'a Arc<Workload> {
    world.workload(&pod.workload.uid).unwrap_or(&pod.workload)
}

fn refusal(verdict: &Verdict<'_>) -> Option<Refused> {
    verdict.reason().map(|reason| Refused { reason, detail: verdict.to_string() })
}
