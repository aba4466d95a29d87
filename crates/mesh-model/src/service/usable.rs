//! Which endpoints of a Service a client on this node may be sent to: what kube-proxy leaves before it throws the dice.
//!
//! ```text
//! endpoints of the port and family ─▶ ready ones ─┬─ Cluster ─▶ hints (nodes, else zones, else none)
//!                                     │ none      └─ Local ───▶ those of this node
//!                                     ▼
//!                                     terminating ones that still serve; none: refused
//! ```
//!
//! The rules are those of kube-proxy's `CategorizeEndpoints`: hints count only if every ready endpoint has one and at least
//! one is for this node (this zone); hints never leave a client without an endpoint, `internalTrafficPolicy: Local` does.
//!
//! Pure, and O(endpoints): [`super::Served`] keeps the answers.

use std::sync::Arc;

use super::{Endpoint, Service};
use crate::Reason;

#[cfg(test)]
mod tests;

/// Where the clients are: what "local" and hints are measured by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Their node; empty: nowhere.
    pub node: Arc<str>,
    /// The node's zone, if it has one.
    pub zone: Option<Arc<str>>,
}

/// Which endpoints count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of the whole cluster.
    Cluster,
    /// Those of the client's node.
    Local,
}

/// What is asked of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The port that was dialled.
    pub port: u16,
    /// The family that was dialled.
    pub ipv6: bool,
    /// Which endpoints count.
    pub scope: Scope,
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place among the Service's endpoints.
    pub endpoint: u32,
    /// Its own port.
    pub target: u16,
}

/// Which of the endpoints at the port they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Ready,
    ReadyForNode,
    ReadyForZone,
    ReadyHere,
    Terminating,
    TerminatingHere,
}

/// The endpoints that may be chosen, at least one, in their order; or why there is none.
pub fn usable<'a>(
    service: &'a Service,
    here: &'a Here,
    question: Question,
) -> Result<impl Iterator<Item = Candidate> + 'a, Reason> {
    let which = which(service, here, question)?;
    Ok(at(service, question)
        .filter(move |(_, endpoint, _)| which.holds(endpoint, here))
        .map(|(number, _, target)| Candidate { endpoint: number, target }))
}

/// Endpoints that have the port, of the family.
fn at(service: &Service, question: Question) -> impl Iterator<Item = (u32, &Endpoint, u16)> {
    (0..)
        .zip(&service.endpoints)
        .filter(move |(_, endpoint)| endpoint.address.is_ipv6() == question.ipv6)
        .filter_map(move |(number, endpoint)| Some((number, endpoint, endpoint.target_port(question.port)?)))
}

fn which(service: &Service, here: &Here, question: Question) -> Result<Which, Reason> {
    let (mut ready, mut terminating) = (Seen::default(), Seen::default());
    let (mut hints_for_nodes, mut hints_for_zones) = (Hints::new(), Hints::new());
    for (_, endpoint, _) in at(service, question) {
        let local = here.is_at(endpoint.node.as_ref());
        if endpoint.ready {
            ready.note(local);
            hints_for_nodes.note(&endpoint.for_nodes, Some(&here.node));
            hints_for_zones.note(&endpoint.for_zones, here.zone.as_ref());
        } else {
            terminating.note(local);
        }
    }
    match question.scope {
        Scope::Cluster if ready.any && hints_for_nodes.count() => Ok(Which::ReadyForNode),
        Scope::Cluster if ready.any && hints_for_zones.count() => Ok(Which::ReadyForZone),
        Scope::Cluster if ready.any => Ok(Which::Ready),
        Scope::Cluster if terminating.any => Ok(Which::Terminating),
        Scope::Local if ready.here => Ok(Which::ReadyHere),
        Scope::Local if terminating.here => Ok(Which::TerminatingHere),
        Scope::Local if ready.any || terminating.any => Err(Reason::NoLocalEndpoint),
        Scope::Cluster | Scope::Local => Err(Reason::NoEndpoint),
    }
}

/// Endpoints of one condition.
#[derive(Default)]
struct Seen {
    any: bool,
    here: bool,
}

impl Seen {
    fn note(&mut self, local: bool) {
        self.any = true;
        self.here |= local;
    }
}

/// Hints of one kind over all ready endpoints.
struct Hints {
    /// None was without.
    all: bool,
    /// One names this place.
    one: bool,
}

impl Hints {
    fn new() -> Self {
        Self { all: true, one: false }
    }

    fn note(&mut self, hints: &[Arc<str>], place: Option<&Arc<str>>) {
        self.all &= !hints.is_empty();
        self.one |= place.is_some_and(|place| hints.contains(place));
    }

    fn count(&self) -> bool {
        self.all && self.one
    }
}

impl Here {
    fn is_at(&self, node: Option<&Arc<str>>) -> bool {
        !self.node.is_empty() && node == Some(&self.node)
    }
}

impl Which {
    fn holds(self, endpoint: &Endpoint, here: &Here) -> bool {
        match self {
            Self::Ready => endpoint.ready,
            Self::ReadyForNode => endpoint.ready && endpoint.for_nodes.contains(&here.node),
            Self::ReadyForZone => {
                endpoint.ready && here.zone.as_ref().is_some_and(|zone| endpoint.for_zones.contains(zone))
            }
            Self::ReadyHere => endpoint.ready && here.is_at(endpoint.node.as_ref()),
            Self::Terminating => !endpoint.ready,
            Self::TerminatingHere => !endpoint.ready && here.is_at(endpoint.node.as_ref()),
        }
    }
}
