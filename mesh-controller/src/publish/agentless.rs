//! Labelled pods on nodes without an agent: outside the mesh until there is one, and somebody should know.
//!
//! ```text
//! labelled, with an address, never captured ── its node has no stream for 30 s ─▶ told, once
//! ```
//!
//! A pod that was captured is not meant: without its agent it is refused, not outside. An agent that is replaced is back
//! within seconds. Peers use plaintext to such a pod, as to any that no agent has reported.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_model::{Uid, Workload};
use mesh_telemetry::shutdown::Shutdown;

use super::{Hub, Told};

#[cfg(test)]
mod tests;

/// So long a pod may wait for an agent before people are told. Longer than an agent takes to come back (10 s at most).
const GRACE: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(5);

/// Who waits, and since when.
#[derive(Debug, Default)]
pub(super) struct Agentless {
    /// Nodes whose agents have streams to other replicas.
    pub(super) served_elsewhere: BTreeSet<String>,
    since: HashMap<Uid, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    told: bool,
}

impl Agentless {
    /// Who has been told of and waits still.
    pub(super) fn told(&self) -> impl Iterator<Item = &Uid> {
        self.since.iter().filter(|(_, waiting)| waiting.told).map(|(uid, _)| uid)
    }

    /// What there is to tell.
    pub(super) fn look<'a>(
        &mut self,
        never_captured: impl Iterator<Item = &'a Workload>,
        is_served: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<Told> {
        let mut told = Vec::new();
        let mut before = std::mem::take(&mut self.since);
        for pod in never_captured {
            if is_served(&pod.node) || self.served_elsewhere.contains(&*pod.node) {
                continue;
            }
            let mut waiting = before.remove(&pod.uid).unwrap_or(Waiting { since: now, told: false });
            if !waiting.told && now.saturating_duration_since(waiting.since) >= GRACE {
                waiting.told = true;
                told.push(Told::agentless(pod));
            }
            self.since.insert(pod.uid.clone(), waiting);
        }
        told
    }
}

/// Looks every few seconds, until shutdown.
pub async fn watch_for_agentless(hub: Arc<Hub>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => hub.look_for_agentless(Instant::now()),
            () = shutdown.wait() => return,
        }
    }
}
