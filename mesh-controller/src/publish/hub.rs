//! The one place that holds the index, what is published, and who has acknowledged what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_model::{Change, Identity, Reason, Uid};
use mesh_telemetry::api::{AgentRow, FileRow};
use mesh_xds::Version;
use mesh_xds::delta::{Published, Session};
use mesh_xds::proto;
use tokio::sync::{Notify, broadcast, watch};

use crate::index::{Captures, Index, NotOnNode, Report};
use crate::metrics::Metrics;
use crate::watch::{Batch, FactChange};

/// Shared by the watcher, the streams and the admin pages.
#[derive(Debug)]
pub struct Hub {
    /// Held for computing, never for waiting.
    state: Mutex<State>,
    /// The newest generation: wakes the streams.
    generation: watch::Sender<u64>,
    /// The captures changed: wakes whoever writes them down.
    captures_changed: Notify,
    /// What people are to be told; whoever writes it down subscribes.
    told: broadcast::Sender<Told>,
    metrics: Metrics,
}

/// What people are to be told: an Event, in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose agent says so.
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

/// What is told and nobody has written down yet; older ones are lost.
const TOLD: usize = 1_024;

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
    /// Labelled pods that are left alone, as the log was told.
    left_alone: BTreeMap<Uid, Reason>,
    files: Vec<FileRow>,
    problems: Vec<String>,
}

#[derive(Debug, Default)]
struct Agent {
    /// The mesh is leaving, and it has let go of everything.
    left: bool,
    version: String,
    acked: Option<Version>,
}

#[derive(Debug)]
struct Stream {
    node: String,
    /// The newest generation that its agent has in whole.
    acked: u64,
    /// Released workloads that it is still to be told of.
    released: Vec<Uid>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Leaving {
    uid: Uid,
    node: String,
    /// From this generation on the workload is withdrawn.
    since: u64,
}

/// A stream's place in the hub; left when dropped.
#[derive(Debug)]
pub(super) struct Place {
    hub: Arc<Hub>,
    id: u64,
    /// There is something released.
    pub(super) wake: Arc<Notify>,
    /// The world that the delta in flight leads to.
    sent: Version,
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
            left_alone: BTreeMap::new(),
            files: Vec::new(),
            problems: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            generation: watch::Sender::new(0),
            captures_changed: Notify::new(),
            told: broadcast::Sender::new(TOLD),
            metrics,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a look at the files gave.
    pub fn apply(&self, batch: Batch) {
        let mut state = self.state();
        for change in batch.changes {
            match change {
                FactChange::Set(fact) => state.index.set(fact),
                FactChange::Removed(key) => state.index.remove(&key),
            }
        }
        state.published.set_partial(batch.partial);
        state.files = batch.rows;
        self.publish(&mut state);
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
        tell_left_alone(&mut state.left_alone, &changes);
        state.published.apply(changes);
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.workloads.set(gauge(state.index.workload_count()));
        self.metrics.services.set(gauge(state.index.service_count()));
        let newest = state.published.generation();
        self.generation.send_if_modified(|generation| std::mem::replace(generation, newest) != newest);
    }

    /// An agent's reports. What does not count is said in the log.
    pub(super) fn report(&self, node: &str, reports: Vec<(Uid, Report, String)>) {
        let mut state = self.state();
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

    /// The mesh is leaving, and a node's agent has let go of everything.
    pub(super) fn left(&self, node: &str) {
        tracing::info!(node, "the node has let go of everything");
        self.state().agents.entry(node.into()).or_default().left = true;
        self.captures_changed.notify_one();
    }

    /// The nodes that have let go of everything.
    pub fn nodes_left(&self) -> Vec<String> {
        let state = self.state();
        state.agents.iter().filter(|(_, agent)| agent.left).map(|(node, _)| node.clone()).collect()
    }

    /// Whether a pod on the node runs as the identity.
    pub fn may_have(&self, node: &str, identity: &Identity) -> Result<(), NotOnNode> {
        self.state().index.may_have(node, identity)
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
        let stream = Stream { node: hello.node.clone(), acked: 0, released: Vec::new(), wake: wake.clone() };
        state.streams.insert(id, stream);
        state.agents.entry(hello.node.clone()).or_default().version = hello.agent_version.clone();
        self.metrics.agents_connected.set(i64::try_from(state.streams.len()).unwrap_or(i64::MAX));
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

impl Place {
    /// The next thing to say on this stream.
    pub(super) fn next(&mut self, session: &mut Session) -> Option<proto::Delta> {
        let mut state = self.hub.state();
        // What an ack has just confirmed is the delta sent before.
        note(&mut state, self.id, session.acked(), self.sent);
        let delta = session.next(&state.published);
        // Nothing to say and nothing refused: the agent has the newest, however it came by it.
        if delta.is_some() || session.acked() == state.published.generation() {
            self.sent = state.published.version();
        }
        note(&mut state, self.id, session.acked(), self.sent);
        delta
    }

    /// Takes what this stream's agent is to be told as released.
    pub(super) fn released(&self) -> Vec<Uid> {
        let mut state = self.hub.state();
        state.streams.get_mut(&self.id).map(|stream| std::mem::take(&mut stream.released)).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.streams.remove(&self.id);
        // One agent fewer to wait for.
        release(&mut state);
        self.hub.metrics.agents_connected.set(i64::try_from(state.streams.len()).unwrap_or(i64::MAX));
    }
}

/// Says once of each labelled pod that it is left alone, and why.
fn tell_left_alone(told: &mut BTreeMap<Uid, Reason>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Workload(workload) => match workload.left_alone {
                Some(reason) if told.insert(workload.uid.clone(), reason) != Some(reason) => {
                    let (namespace, name) = (&workload.namespace, &workload.name);
                    tracing::warn!(%namespace, %name, %reason, "a labelled pod is not captured");
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
            | Change::NodeRemoved(_) => {}
        }
    }
}

/// Books what a stream's agent has, and what follows from it.
fn note(state: &mut State, id: u64, acked: u64, version: Version) {
    let Some(stream) = state.streams.get_mut(&id) else { return };
    if stream.acked == acked {
        return;
    }
    stream.acked = acked;
    let node = stream.node.clone();
    state.agents.entry(node).or_default().acked = Some(version);
    release(state);
}

/// Releases what every connected agent knows to be withdrawn.
fn release(state: &mut State) {
    let acked = state.streams.values().map(|stream| stream.acked).min().unwrap_or(u64::MAX);
    let (released, waiting): (Vec<_>, Vec<_>) =
        std::mem::take(&mut state.leaving).into_iter().partition(|leaving| leaving.since <= acked);
    state.leaving = waiting;
    for leaving in released {
        // Its agent has no stream: it says so again when it is back.
        for stream in state.streams.values_mut().filter(|stream| stream.node == leaving.node) {
            stream.released.push(leaving.uid.clone());
            stream.wake.notify_one();
        }
    }
}
