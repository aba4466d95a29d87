//! When a workload may be released: nobody dials it by tunnel any more, at this replica or at another.
//!
//! ```text
//! Leaving (its agent is here) ── all streams here acknowledged ── and every live replica says that all of its did ─▶ released
//! Leaving (its agent is elsewhere) ── all streams here acknowledged ─▶ said in this replica's Lease
//! ```
//!
//! A replica that is dead has no agents: whoever counts replicas leaves it out. An agent that is told nothing lets go by
//! itself after 30 s.

use std::collections::{BTreeMap, HashSet};

use mesh_model::Uid;
use mesh_xds::Version;

use super::State;

/// An agent of this replica wants to let go of a workload.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) uid: Uid,
    pub(super) node: String,
    /// From this generation on the workload is withdrawn.
    pub(super) since: u64,
}

/// What there is to know of other replicas.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// The live ones, and the withdrawals that all of their agents know.
    known: BTreeMap<String, HashSet<Uid>>,
    /// The withdrawals that their agents wait for: the node, and from which generation on they are published here.
    awaited: BTreeMap<Uid, (String, u64)>,
}

impl Elsewhere {
    /// Who is alive, and what all of its agents know.
    pub(super) fn set(&mut self, known: BTreeMap<String, HashSet<Uid>>) {
        self.known = known;
    }

    /// What a node's agent waits for, as of a generation.
    pub(super) fn await_on(&mut self, node: &str, leaving: &[Uid], generation: u64) {
        self.awaited.retain(|uid, (of, _)| of != node || leaving.contains(uid));
        for uid in leaving {
            self.awaited.entry(uid.clone()).or_insert_with(|| (node.into(), generation));
        }
    }
}

impl State {
    /// The newest generation that every connected agent has.
    fn acked_by_all(&self) -> u64 {
        self.streams.values().map(|stream| stream.acked).min().unwrap_or(u64::MAX)
    }

    /// Agents of other replicas wait for withdrawals.
    pub(super) fn is_waited_for_elsewhere(&self) -> bool {
        !self.elsewhere.awaited.is_empty()
    }

    /// The withdrawals that agents of other replicas wait for and all agents here know.
    pub(super) fn acknowledged(&self) -> Vec<Uid> {
        let acked = self.acked_by_all();
        let known = self.elsewhere.awaited.iter().filter(|(_, (_, since))| *since <= acked);
        known.map(|(uid, _)| uid.clone()).collect()
    }
}

/// Books what a stream's agent has, and what follows from it. Whether that is news.
pub(super) fn note(state: &mut State, id: u64, acked: u64, version: Version) -> bool {
    let Some(stream) = state.streams.get_mut(&id) else { return false };
    if stream.acked == acked {
        return false;
    }
    stream.acked = acked;
    let node = stream.node.clone();
    let agent = state.agents.entry(node).or_default();
    (agent.acked, agent.refused) = (Some(version), None);
    release(state);
    true
}

/// Releases what every connected agent knows to be withdrawn.
pub(super) fn release(state: &mut State) {
    if state.leaving.is_empty() {
        return;
    }
    let acked = state.acked_by_all();
    let leaving = std::mem::take(&mut state.leaving);
    let everywhere = |uid: &Uid| state.elsewhere.known.values().all(|known| known.contains(uid));
    let (released, waiting): (Vec<_>, Vec<_>) =
        leaving.into_iter().partition(|leaving| leaving.since <= acked && everywhere(&leaving.uid));
    state.leaving = waiting;
    for leaving in released {
        // Its agent has no stream: it says so again when it is back.
        for stream in state.streams.values_mut().filter(|stream| stream.node == leaving.node) {
            stream.released.push(leaving.uid.clone());
            stream.wake.notify_one();
        }
    }
}
