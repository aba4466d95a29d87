//! A policy has changed, or who a peer is: connections that would be refused now are cut.
//!
//! An inbound connection is judged as the one who dialled is now: a pod that left the mesh since has no identity any more, one
//! that was given another has that one. A peer that nobody knows any more keeps the identity that it has shown.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_model::policy::Peer;
use mesh_model::{Identity, Reason, Uid, World};
use mesh_telemetry::api::{ConnectionPath, Direction};

use super::{Connections, End, Live};

/// Which connections may be judged otherwise than before.
#[derive(Clone, Copy, Debug)]
pub enum Touched<'a> {
    /// Any.
    All,
    /// Those from or to these workloads.
    Workloads(&'a HashSet<Uid>),
}

impl Connections {
    /// Cuts what is no longer admitted in this world; how many.
    pub fn recheck(&self, world: &World, touched: Touched<'_>) -> usize {
        let handles: Vec<Arc<Live>> =
            self.live().values().filter(|live| live.is_among(touched)).cloned().collect();
        let refused = handles.iter().filter_map(|live| Some((live, live.refusal(world)?)));
        refused.map(|(live, (reason, detail))| live.cut(reason, detail)).count()
    }
}

impl Live {
    fn is_among(&self, touched: Touched<'_>) -> bool {
        let ends = [&self.about.source, &self.about.destination];
        match touched {
            Touched::All => true,
            Touched::Workloads(uids) => ends
                .iter()
                .any(|end| end.workload.as_ref().is_some_and(|workload| uids.contains(&workload.uid))),
        }
    }

    fn refusal(&self, world: &World) -> Option<(Reason, String)> {
        let about = &self.about;
        let is_policed = about.direction == Direction::Inbound || about.path == ConnectionPath::Tunnel;
        if !is_policed {
            return None;
        }
        let then = about.destination.workload.as_ref()?;
        let destination = world.workload(&then.uid).unwrap_or(then);
        let address = about.source.address.ip().to_canonical();
        let identity = identity_now(world, &about.source);
        let peer = Peer { identity: identity.as_ref(), address };
        let verdict = world.judge(destination, peer, about.destination.address.port()).verdict;
        verdict.reason().map(|reason| (reason, verdict.to_string()))
    }
}

fn identity_now(world: &World, source: &End) -> Option<Identity> {
    let shown = source.identity.as_ref()?;
    let known = source.workload.as_ref().and_then(|workload| world.workload(&workload.uid));
    match known {
        Some(now) if !now.enrolled && !now.tunnel.is_hbone() => None,
        Some(now) => Some(now.identity.clone()),
        None => Some(shown.clone()),
    }
}
