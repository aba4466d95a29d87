//! NodeStates: what a node's agent said, written by the replica that it is connected to and read by all others.
//!
//! ```text
//! agent ─▶ hub ─ words ─▶ [ours?] ─▶ NodeState.status ─▶ watch ─▶ [another's?] ─▶ the hubs of the other replicas
//! ```
//!
//! A node is the replica's whose agent came to it last. Every write names the version that it replaces, so a replica that
//! still believes in a dead stream is refused, sees by the watch that the agent has moved, and lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use mesh_crd::{NodeState, NodeStateSpec, NodeStateStatus};
use mesh_model::Uid;
use serde_json::json;
use tokio::sync::watch;

use super::board::{SeenNodeState, Words};
use super::said::{Trouble, is_absent, is_conflict};
use super::{MANAGER, Reconcile};
use crate::publish::NodeRow;

/// Reports come in bursts: a node's status is written at most this often.
const GATHER: Duration = Duration::from_millis(50);
/// After a write failed.
const AGAIN: Duration = Duration::from_secs(1);
/// `lastSeen` of an agent that stays connected is renewed this seldom.
const SEEN: Duration = Duration::from_secs(600);
/// Writes that are under way at once.
const WRITES: usize = 8;
/// An agent has so long to come back to a controller that was restarted before its node counts as not connected.
const RETURN: Duration = Duration::from_secs(60);
/// A spec with nothing in it never changes.
const ONLY_GENERATION: i64 = 1;
const RESOURCE: &str = "nodestates.weft.dev";
const STATUS: &str = "nodestates.weft.dev/status";

/// What to do about a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It stands as it should.
    Nothing,
    /// It is ours: this is what its status should be.
    Write(Box<NodeStateStatus>),
    /// It is another replica's.
    Adopt(Words),
}

/// Pure. `answered`: how often the agent had been heard when our last write counted.
pub(super) fn step(
    row: &NodeRow,
    seen: Option<&SeenNodeState>,
    answered: u64,
    me: &str,
    now: Timestamp,
) -> Step {
    let claims = row.heard > answered;
    let status = seen.map(|seen| &seen.status);
    if !claims && let Some(status) = status.filter(|status| status.replica.as_deref() != Some(me)) {
        return Step::Adopt(Words::of(status));
    }
    let wanted = wanted(row, status, me, now);
    match status {
        // Somebody deleted it and says by that that the node is free: only an agent that comes back has it made again.
        None if !claims && !row.connected => Step::Nothing,
        Some(status) if is_same(status, &wanted) && !is_stale(status, row, now) => Step::Nothing,
        _ => Step::Write(Box::new(wanted)),
    }
}

/// What a node's status should be.
fn wanted(row: &NodeRow, old: Option<&NodeStateStatus>, me: &str, now: Timestamp) -> NodeStateStatus {
    let uids = |list: &[Uid]| list.iter().map(|uid| uid.as_str().to_owned()).collect();
    let (status, reason, message) = match row.connected {
        true => ("True", "Connected", format!("the agent has a stream to {me}")),
        false => ("False", "Disconnected", "the agent has no stream to a controller".to_owned()),
    };
    NodeStateStatus {
        agent_version: Some(row.version.clone()).filter(|version| !version.is_empty()),
        replica: Some(me.into()),
        captured: uids(&row.words.captured),
        captured_pods: i32::try_from(row.words.captured.len()).ok(),
        withdrawn: uids(&row.words.withdrawn),
        leaving: uids(&row.words.leaving),
        policies: row.policies.map(|digest| format!("{digest:032x}")),
        left: row.left,
        last_seen: Some(Time(whole_seconds(now))),
        conditions: vec![connected(old, status, reason, message, now)],
    }
}

/// The condition, with the time at which it last changed.
fn connected(
    old: Option<&NodeStateStatus>,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> Condition {
    let old = old.and_then(|old| old.conditions.iter().find(|condition| condition.type_ == "Connected"));
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    Condition {
        type_: "Connected".into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_transition_time: since.unwrap_or_else(|| Time(whole_seconds(now))),
        observed_generation: Some(ONLY_GENERATION),
    }
}

/// The node's agent has a stream to another replica.
fn is_connected_elsewhere(seen: &SeenNodeState, me: &str) -> bool {
    let is_connected = seen.status.conditions.iter().any(|c| c.type_ == "Connected" && c.status == "True");
    is_connected && seen.status.replica.as_deref() != Some(me)
}

/// But for the time.
fn is_same(old: &NodeStateStatus, new: &NodeStateStatus) -> bool {
    NodeStateStatus { last_seen: None, ..old.clone() } == NodeStateStatus { last_seen: None, ..new.clone() }
}

fn is_stale(old: &NodeStateStatus, row: &NodeRow, now: Timestamp) -> bool {
    let age = old.last_seen.as_ref().map(|seen| now.duration_since(seen.0).unsigned_abs());
    row.connected && age.is_none_or(|age| age > SEEN)
}

/// Objects have times without fractions.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

struct Keeper {
    shared: Reconcile,
    api: Api<NodeState>,
    /// How often each agent had been heard when our last write counted.
    answered: BTreeMap<String, u64>,
    /// What was last taken over of other replicas' nodes.
    adopted: BTreeMap<String, Words>,
    started: Instant,
    trouble: Trouble,
}

/// Writes and reads NodeStates until shutdown.
pub(super) async fn keep(shared: Reconcile, leader: watch::Receiver<bool>) {
    let hold = shared.shutdown.hold();
    let api = Api::all(shared.client.clone());
    let mut changes = shared.board.changes();
    let mut keeper = Keeper {
        api,
        answered: BTreeMap::new(),
        // The first world has them.
        adopted: BTreeMap::new(),
        started: Instant::now(),
        trouble: Trouble::default(),
        shared,
    };
    loop {
        let whole = keeper.shared.board.state().is_whole("NodeState");
        let leads = *leader.borrow();
        let well = !whole || keeper.all(leads).await;
        let pause = if well { GATHER } else { AGAIN };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = keeper.shared.shutdown.wait() => break,
        }
        if well {
            tokio::select! {
                () = keeper.shared.hub.captures_changed() => {}
                _ = changes.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => {}
                () = keeper.shared.shutdown.wait() => break,
            }
        }
    }
    drop(hold);
}

impl Keeper {
    /// Everything that is to be done now. False if something failed.
    async fn all(&mut self, leads: bool) -> bool {
        let rows = self.shared.hub.node_rows();
        let me = self.shared.replica.clone();
        let now = Timestamp::now();
        let (mut writes, mut words) = (Vec::new(), Vec::new());
        let mut gone = Vec::new();
        let elsewhere: BTreeSet<String>;
        {
            let state = self.shared.board.state();
            let others = state.node_states.iter().filter(|(_, seen)| is_connected_elsewhere(seen, &me));
            elsewhere = others.map(|(node, _)| node.clone()).collect();
            let mine: BTreeMap<&str, &NodeRow> = rows.iter().map(|row| (row.node.as_str(), row)).collect();
            for row in &rows {
                let seen = state.node_states.get(&row.node);
                let answered = self.answered.get(&row.node).copied().unwrap_or(0);
                match step(row, seen, answered, &me, now) {
                    Step::Nothing => drop(self.answered.insert(row.node.clone(), row.heard)),
                    Step::Write(status) => {
                        writes.push((row.node.clone(), row.heard, seen.map(|s| s.version.clone()), status));
                    }
                    Step::Adopt(theirs) => words.push((row.node.clone(), theirs)),
                }
            }
            for (node, seen) in &state.node_states {
                if !mine.contains_key(node.as_str()) {
                    words.push((node.clone(), Words::of(&seen.status)));
                    if let Some(status) = self.orphan(&state, seen, leads, now) {
                        writes.push((node.clone(), 0, Some(seen.version.clone()), Box::new(status)));
                    }
                }
                if leads && !state.has_node(node) {
                    gone.push(node.clone());
                }
            }
            // Of a node that is gone nothing is written: its NodeState goes, too.
            writes.retain(|(node, ..)| state.has_node(node));
        }
        self.shared.hub.set_served_elsewhere(elsewhere);
        for (node, theirs) in words {
            if self.adopted.get(&node) != Some(&theirs) {
                self.shared.hub.adopt(&node, &theirs);
                self.adopted.insert(node, theirs);
            }
        }
        // What our own agents say stands for itself.
        for (node, ..) in &writes {
            self.adopted.remove(node);
        }
        let written = self.write(writes).await;
        let deleted = self.delete(gone).await;
        written && deleted
    }

    /// The status of a node whose replica is gone and whose agent went nowhere else, if it should be another.
    fn orphan(
        &self,
        state: &super::board::State,
        seen: &SeenNodeState,
        leads: bool,
        now: Timestamp,
    ) -> Option<NodeStateStatus> {
        let owner = seen.status.replica.as_deref().unwrap_or_default();
        let is_connected = seen.status.conditions.iter().any(|condition| condition.status == "True");
        if !is_connected || self.started.elapsed() < RETURN {
            return None;
        }
        let alive = super::leases::others(state, &self.shared.replica, Instant::now());
        let ours_to_say = owner == self.shared.replica || (leads && !alive.contains_key(owner));
        let message = || format!("{owner}, to which the agent was connected, is gone");
        ours_to_say.then(|| NodeStateStatus {
            conditions: vec![connected(Some(&seen.status), "False", "ReplicaGone", message(), now)],
            ..seen.status.clone()
        })
    }

    async fn write(&mut self, writes: Vec<(String, u64, Option<String>, Box<NodeStateStatus>)>) -> bool {
        let api = &self.api;
        let written = writes.into_iter().map(async |(node, heard, version, status)| {
            let done = write_one(api, &node, version, *status).await;
            (node, heard, done)
        });
        let written: Vec<_> = futures_util::stream::iter(written).buffer_unordered(WRITES).collect().await;
        let mut well = true;
        for (node, heard, done) in written {
            match done {
                Ok((replaced, new)) => {
                    self.shared.board.wrote_node_state(&replaced, &new);
                    self.answered.insert(node, heard);
                    self.trouble.over();
                }
                // The watch brings the newest, and wakes us.
                Err((_, error)) if is_conflict(&error) || is_absent(&error) => well = false,
                Err(((verb, resource), error)) => {
                    self.trouble.said(verb, resource, &error, &self.shared.metrics);
                    well = false;
                }
            }
        }
        well
    }

    async fn delete(&mut self, gone: Vec<String>) -> bool {
        let mut well = true;
        for node in gone {
            match self.api.delete(&node, &DeleteParams::default()).await {
                Ok(_) => tracing::info!(node, "removed the NodeState of a node that is gone"),
                Err(error) if is_absent(&error) => {}
                Err(error) => {
                    self.trouble.said("delete", RESOURCE, &error, &self.shared.metrics);
                    well = false;
                }
            }
        }
        well
    }
}

/// What was tried, and why it failed.
type Failed = ((&'static str, &'static str), kube::Error);

/// Refused if the object is no longer of the version that was looked at.
async fn write_one(
    api: &Api<NodeState>,
    node: &str,
    version: Option<String>,
    status: NodeStateStatus,
) -> Result<(String, NodeState), Failed> {
    let replaced = version.clone().unwrap_or_default();
    let version = match version {
        Some(version) => version,
        None => {
            let new = NodeState::new(node, NodeStateSpec::default());
            let made = api.create(&PostParams::default(), &new).await;
            made.map_err(|error| (("create", RESOURCE), error))?.resource_version().unwrap_or_default()
        }
    };
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "NodeState",
        "metadata": { "name": node, "resourceVersion": version },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    let patched = api.patch_status(node, &params, &Patch::Apply(object)).await;
    patched.map(|new| (replaced, new)).map_err(|error| (("patch", STATUS), error))
}
