//! The one place that holds the index, what is published, and who has acknowledged what.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mesh_crd::network_policy::Cut;
use mesh_model::{Identity, Reason, Uid};
use mesh_telemetry::api::{AgentRow, FileRow};
use mesh_xds::Version;
use mesh_xds::delta::{Published, Session};
use mesh_xds::proto;
use tokio::sync::{Notify, broadcast, watch};

use super::agentless::Agentless;
use crate::index::{Captures, Index, NotOnNode, Report, Word};
use crate::metrics::Metrics;
use crate::reconcile::Words;
use crate::watch::{Batch, FactChange};

mod notice;
mod observed;
mod place;
mod policies;
mod release;
mod strict;

#[cfg(test)]
mod tests;

pub use notice::Told;
use observed::Observed;
pub(super) use place::Place;
use place::end_oldest;
use policies::Applied;
pub use policies::PolicyState;
use release::{Elsewhere, Leaving, release};
pub use strict::Bare;

/// Shared by the watcher, the streams and the admin pages.
#[derive(Debug)]
pub struct Hub {
    /// Held for computing, never for waiting.
    state: Mutex<State>,
    /// The newest generation: wakes the streams.
    generation: watch::Sender<u64>,
    /// The captures changed: wakes whoever writes them down.
    captures_changed: Notify,
    /// What all agents here acknowledged may have changed: wakes whoever tells the other replicas.
    acknowledged_changed: Notify,
    /// What people are to be told; whoever writes it down subscribes.
    told: broadcast::Sender<Told>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    index: Index,
    published: Published,
    /// Every agent that has come, by node.
    agents: BTreeMap<String, Agent>,
    streams: BTreeMap<u64, Stream>,
    last_stream: u64,
    /// Agents that want to let go of a workload.
    leaving: Vec<Leaving>,
    /// The same of other replicas.
    elsewhere: Elsewhere,
    /// Labelled pods that are left alone, as the log was told.
    left_alone: BTreeMap<Uid, Reason>,
    /// Namespace and name of each service account, where somebody watches them.
    accounts: Option<HashSet<(String, String)>>,
    /// Labelled pods that wait for an agent on their node.
    agentless: Agentless,
    /// How far policies have come.
    applied: Applied,
    /// Who talked to whom, as agents said.
    observed: Observed,
    files: Vec<FileRow>,
    problems: Vec<String>,
}

#[derive(Debug, Default)]
struct Agent {
    /// The mesh is leaving, and it has let go of everything.
    left: bool,
    version: String,
    acked: Option<Version>,
    /// Why it refused an update, until it has acknowledged everything.
    refused: Option<String>,
    /// How often it came or said something here.
    heard: u64,
}

/// A node whose agent is or was connected to this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Its agent has a stream here.
    pub connected: bool,
    /// The agent's version.
    pub version: String,
    /// The mesh is leaving, and it has let go of everything.
    pub left: bool,
    /// How often its agent came or said something here.
    pub heard: u64,
    /// What its agent has applied of policies, as a digest.
    pub policies: Option<u128>,
    /// What it said of its pods.
    pub words: Words,
}

#[derive(Debug)]
struct Stream {
    node: String,
    /// The newest generation that its agent has in whole.
    acked: u64,
    /// Released workloads that it is still to be told of.
    released: Vec<Uid>,
    /// Its agent has opened too many others since.
    is_over: bool,
    wake: Arc<Notify>,
}

impl Hub {
    /// A hub whose index remembers what was reported before a restart.
    pub fn new(captures: Captures, metrics: Metrics) -> Arc<Self> {
        let state = State {
            index: Index::new(captures),
            published: Published::default(),
            agents: BTreeMap::new(),
            streams: BTreeMap::new(),
            last_stream: 0,
            leaving: Vec::new(),
            elsewhere: Elsewhere::default(),
            left_alone: BTreeMap::new(),
            accounts: None,
            agentless: Agentless::default(),
            applied: Applied::default(),
            observed: Observed::default(),
            files: Vec::new(),
            problems: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            generation: watch::Sender::new(0),
            captures_changed: Notify::new(),
            acknowledged_changed: Notify::new(),
            told: broadcast::Sender::new(notice::TOLD),
            metrics,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a look at the files, or the watches, gave.
    pub fn apply(&self, batch: Batch) {
        self.apply_first(batch, Vec::new());
    }

    /// The same with what agents said to other replicas, or before a restart: one world, in which both count.
    pub fn apply_first(&self, batch: Batch, words: Vec<(String, Words)>) {
        let mut state = self.state();
        for change in batch.changes {
            match change {
                FactChange::Set(fact) => state.index.set(fact),
                FactChange::Removed(key) => state.index.remove(&key),
            }
        }
        for (node, words) in &words {
            adopt(&mut state.index, node, words);
        }
        state.published.set_partial(batch.partial);
        state.files = batch.rows;
        self.publish(&mut state);
        let generation = state.published.generation();
        for (node, words) in &words {
            state.elsewhere.await_on(node, &words.leaving, generation);
        }
        let problems = state.index.problems();
        for problem in problems.iter().filter(|problem| !state.problems.contains(problem)) {
            tracing::error!("{problem}");
        }
        state.problems = problems;
        let broken = state.files.iter().filter(|row| row.error.is_some()).count() + state.problems.len();
        self.metrics.config_errors.set(i64::try_from(broken).unwrap_or(i64::MAX));
    }

    /// The facts are whole for the first time.
    pub fn loaded(&self) {
        self.state().index.loaded();
    }

    /// Publishes what the index has to say, and wakes the streams if that is something.
    fn publish(&self, state: &mut State) {
        let changes = state.index.flush();
        notice::tell_left_alone(&mut state.left_alone, &changes, &self.told);
        let rebound = state.index.take_rebound();
        let touched = state.applied.note(&changes, rebound);
        state.published.apply(changes);
        let generation = state.published.generation();
        state.applied.published(touched, generation);
        for remark in state.index.remarks() {
            self.tell(remark.into());
        }
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.workloads.set(gauge(state.index.workload_count()));
        self.metrics.services.set(gauge(state.index.service_count()));
        let newest = state.published.generation();
        self.generation.send_if_modified(|generation| std::mem::replace(generation, newest) != newest);
    }

    /// An agent's reports. What does not count is said in the log.
    pub(super) fn report(&self, node: &str, reports: Vec<(Uid, Report, String)>) {
        let mut state = self.state();
        state.agents.entry(node.into()).or_default().heard += 1;
        let mut left = Vec::new();
        for (uid, report, reason) in reports {
            // A newer word on the workload: what it waits for is settled by that.
            state.leaving.retain(|leaving| leaving.uid != uid || leaving.node != node);
            match state.index.report(node, &uid, report) {
                Ok(true) => tracing::info!(node, workload = %uid, ?report, reason, "reported"),
                // Everything is reported again after each reconnect.
                Ok(false) => tracing::debug!(node, workload = %uid, ?report, reason, "reported"),
                Err(error) => {
                    tracing::warn!(%error, "ignoring a report");
                    continue;
                }
            }
            if report == Report::Leaving {
                left.push(uid);
            }
        }
        self.publish(&mut state);
        let since = state.published.generation();
        state.leaving.extend(left.into_iter().map(|uid| Leaving { uid, node: node.into(), since }));
        release(&mut state);
        drop(state);
        self.captures_changed.notify_one();
    }

    /// The NetworkPolicies that cut tunnels; nothing if that cannot be different from what the last call returned.
    pub fn cuts_if_touched(&self) -> Option<Vec<Cut>> {
        self.state().index.cuts_if_touched()
    }

    /// Looks for labelled pods on nodes without an agent, and tells of those that have waited for one too long. To be called
    /// every now and then.
    pub fn look_for_agentless(&self, now: Instant) {
        let mut state = self.state();
        let State { index, streams, agentless, .. } = &mut *state;
        let served: BTreeSet<&str> = streams.values().map(|stream| stream.node.as_str()).collect();
        let told = agentless.look(index.never_captured(), |node| served.contains(node), now);
        told.into_iter().for_each(|told| self.tell(told));
    }

    /// Nodes whose agents have streams to other replicas.
    pub fn set_served_elsewhere(&self, nodes: BTreeSet<String>) {
        self.state().agentless.served_elsewhere = nodes;
    }

    /// The mesh is leaving, and a node's agent has let go of everything; or has taken hold again, since it stays.
    pub(super) fn left(&self, node: &str, left: bool) {
        let word = if left { "the node has let go of everything" } else { "the node is held again" };
        tracing::info!(node, "{word}");
        let mut state = self.state();
        let agent = state.agents.entry(node.into()).or_default();
        agent.left = left;
        agent.heard += 1;
        drop(state);
        self.captures_changed.notify_one();
    }

    /// What a node's agent said to another replica, from there: it counts as if it had been said here.
    pub fn adopt(&self, node: &str, words: &Words) {
        let mut state = self.state();
        adopt(&mut state.index, node, words);
        self.publish(&mut state);
        let generation = state.published.generation();
        state.elsewhere.await_on(node, &words.leaving, generation);
        drop(state);
        self.acknowledged_changed.notify_one();
    }

    /// The other replicas that are alive, and the withdrawals that all of their agents know.
    pub fn set_others(&self, others: BTreeMap<String, HashSet<Uid>>) {
        let mut state = self.state();
        state.elsewhere.set(others);
        release(&mut state);
    }

    /// The withdrawals for which agents of other replicas wait, and which all agents here know.
    pub fn acknowledged(&self) -> Vec<Uid> {
        self.state().acknowledged()
    }

    /// Returns when [`Self::acknowledged`] may have changed since the last call returned.
    pub async fn acknowledged_changed(&self) {
        self.acknowledged_changed.notified().await;
    }

    /// Every node whose agent has come here since the start, and what it said of pods that are there.
    pub fn node_rows(&self) -> Vec<NodeRow> {
        let state = self.state();
        let row = |(node, agent): (&String, &Agent)| {
            let row = NodeRow {
                node: node.clone(),
                connected: state.streams.values().any(|stream| stream.node == *node),
                version: agent.version.clone(),
                left: agent.left,
                heard: agent.heard,
                policies: state.policies_of(node),
                words: Words::default(),
            };
            (node.clone(), row)
        };
        let mut rows: BTreeMap<String, NodeRow> = state.agents.iter().map(row).collect();
        for (uid, node, word) in state.index.captures().all() {
            let Some(row) = rows.get_mut(node) else { continue };
            if state.index.workload(uid).is_some_and(|workload| *workload.node == *node) {
                match word {
                    Word::Captured => row.words.captured.push(uid.clone()),
                    Word::Withdrawn => row.words.withdrawn.push(uid.clone()),
                }
            }
        }
        for leaving in &state.leaving {
            if let Some(row) = rows.get_mut(&leaving.node) {
                row.words.leaving.push(leaving.uid.clone());
            }
        }
        rows.into_values().collect()
    }

    /// The nodes that have let go of everything.
    pub fn nodes_left(&self) -> Vec<String> {
        let state = self.state();
        state.agents.iter().filter(|(_, agent)| agent.left).map(|(node, _)| node.clone()).collect()
    }

    /// Whether a pod on the node runs as the identity, and its service account is there.
    pub fn may_have(&self, node: &str, identity: &Identity) -> Result<(), NotOnNode> {
        let state = self.state();
        let account = (identity.namespace().to_owned(), identity.service_account().to_owned());
        if state.accounts.as_ref().is_some_and(|accounts| !accounts.contains(&account)) {
            return Err(NotOnNode { node: node.into(), identity: identity.clone(), no_account: true });
        }
        state.index.may_have(node, identity)
    }

    /// A service account is there, or gone. Once one was, no other has certificates.
    pub fn account(&self, namespace: &str, name: &str, there: bool) {
        let account = (namespace.to_owned(), name.to_owned());
        let mut state = self.state();
        let accounts = state.accounts.get_or_insert_default();
        match there {
            true => accounts.insert(account),
            false => accounts.remove(&account),
        };
    }

    /// What agents reported so far.
    pub fn captures(&self) -> Captures {
        self.state().index.captures().clone()
    }

    /// Returns when captures may have changed since the last call returned.
    pub async fn captures_changed(&self) {
        self.captures_changed.notified().await;
    }

    /// Wakes with each generation.
    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A new stream takes its place.
    pub(super) fn join(
        self: &Arc<Self>,
        hello: &proto::Hello,
    ) -> Result<(Place, Session), mesh_xds::delta::ProtocolError> {
        let mut state = self.state();
        let session = Session::new(hello, &state.published)?;
        state.last_stream += 1;
        let id = state.last_stream;
        let wake = Arc::new(Notify::new());
        let (node, released) = (hello.node.clone(), Vec::new());
        let stream = Stream { node, acked: 0, released, is_over: false, wake: wake.clone() };
        end_oldest(&mut state.streams, &stream.node);
        state.streams.insert(id, stream);
        let agent = state.agents.entry(hello.node.clone()).or_default();
        agent.version = hello.agent_version.clone();
        // It says so again if that is still so.
        agent.left = false;
        agent.heard += 1;
        self.metrics.agents_connected.set(i64::try_from(state.streams.len()).unwrap_or(i64::MAX));
        Self::policies_may_differ(&mut state);
        drop(state);
        self.captures_changed.notify_one();
        Ok((Place { hub: self.clone(), id, wake, sent: Version::default() }, session))
    }

    /// How many workloads and services are published.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.index.workload_count(), state.index.service_count())
    }

    /// Every agent that has come since the start.
    pub fn agent_rows(&self) -> Vec<AgentRow> {
        let state = self.state();
        let newest = state.published.generation();
        let row = |(node, agent): (&String, &Agent)| {
            let streams = || state.streams.values().filter(|stream| stream.node == *node);
            AgentRow {
                node: node.clone(),
                connected: streams().next().is_some(),
                version: Some(agent.version.clone()).filter(|version| !version.is_empty()),
                acked: agent.acked.map(|version| version.to_string()),
                refused: agent.refused.clone(),
                behind: streams().map(|stream| newest.saturating_sub(stream.acked)).max().unwrap_or(0),
            }
        };
        state.agents.iter().map(row).collect()
    }

    /// Every file, and mistakes that are in no single one.
    pub fn file_rows(&self) -> Vec<FileRow> {
        let state = self.state();
        let problem = |text: &String| FileRow { path: String::new(), error: Some(text.clone()) };
        state.files.iter().cloned().chain(state.problems.iter().map(problem)).collect()
    }
}

/// Takes a node's words from elsewhere. A word on a pod that was never captured here is still that it was, and is no more.
fn adopt(index: &mut Index, node: &str, words: &Words) {
    let steps = words.captured.iter().map(|uid| (uid, [Report::Captured].as_slice()));
    let withdrawn = words.withdrawn.iter().map(|uid| (uid, [Report::Captured, Report::Gone].as_slice()));
    for (uid, reports) in steps.chain(withdrawn) {
        for report in reports {
            if let Err(error) = index.report(node, uid, *report) {
                tracing::debug!(%error, "ignoring a NodeState's word");
            }
        }
    }
}
