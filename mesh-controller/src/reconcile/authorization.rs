//! AuthorizationPolicies: the conditions `Accepted`, `Enforced` and `Warning`, written by the leader.
//!
//! ```text
//! hub (who has applied it) ─┐
//! board (what stands there) ─┴─▶ conditions (pure) ─▶ status, if it is another
//! ```
//!
//! `Enforced` is true when the agent of every node with a pod of the mesh that the policy targets has acknowledged the policy,
//! and who lists it, as they are now. A policy that cannot be in force keeps what was last accepted of it, and `Enforced` goes on
//! speaking of that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use mesh_crd::AuthorizationPolicy;
use mesh_crd::authorization_policy::{AuthorizationPolicyStatus, Target, Within};
use mesh_model::policy::{Mode, PolicyKey};
use mesh_telemetry::api::{ConditionRow, PolicyRow};
use serde_json::json;
use tokio::sync::watch;

use super::board::SeenPolicy;
use super::said::{Trouble, is_absent, is_conflict};
use super::{MANAGER, Reconcile};
use crate::publish::PolicyState;

const STATUS: &str = "authorizationpolicies.weft.dev/status";
/// At most so often.
const LOOK: Duration = Duration::from_millis(200);
/// Writes that are under way at once.
const WRITES: usize = 8;
/// Nodes that are named before the rest is counted.
const NAMED: usize = 10;

/// One condition, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
    generation: Option<i64>,
}

/// What is to be said of a policy. `broken`: the generation that cannot be in force, and why. Pure.
pub fn conditions(state: Option<&PolicyState>, broken: Option<(Option<i64>, &str)>) -> Vec<Said> {
    let generation = state.and_then(|state| state.authored.generation);
    let accepted = match (broken, state) {
        (Some((generation, error)), Some(_)) => {
            let message = format!("{error}; what was last accepted stays in force");
            Said { kind: "Accepted", status: false, reason: "Invalid", message, generation }
        }
        (Some((generation, error)), None) => {
            Said { kind: "Accepted", status: false, reason: "Invalid", message: error.into(), generation }
        }
        (None, Some(state)) => Said {
            kind: "Accepted",
            status: true,
            reason: "Accepted",
            message: match state.outside {
                0 => format!("about {} in the mesh", pods(state.pods)),
                outside => format!(
                    "about {} in the mesh; {outside} more that it targets are not in the mesh, and nothing is enforced for them",
                    pods(state.pods)
                ),
            },
            generation,
        },
        (None, None) => return Vec::new(),
    };
    let mut said = vec![accepted];
    let Some(state) = state else { return said };
    let (status, reason, message) = match (state.pending.len(), state.pods, state.authored.policy.mode) {
        (1.., ..) => (false, "NodesPending", format!("not applied yet on {}", names(state))),
        (0, 0, _) => (true, "NoPods", "it targets no pod of the mesh".to_owned()),
        (0, _, Mode::Enforce) => {
            (true, "Enforced", "applied on every node with a pod that it targets".into())
        }
        (0, _, Mode::Audit) => (
            true,
            "Audited",
            "applied on every node with a pod that it targets: mode Audit, nothing is refused".into(),
        ),
    };
    said.push(Said { kind: "Enforced", status, reason, message, generation });
    if !state.warnings.is_empty() {
        let message = state.warnings.join("; ");
        said.push(Said { kind: "Warning", status: true, reason: "PerhapsNotMeant", message, generation });
    }
    said
}

fn pods(count: usize) -> String {
    if count == 1 { "1 pod".into() } else { format!("{count} pods") }
}

fn names(state: &PolicyState) -> String {
    let named: Vec<&str> = state.pending.iter().take(NAMED).map(|node| &**node).collect();
    match state.pending.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What the admin socket says of policies.
pub fn rows(states: &[PolicyState]) -> Vec<PolicyRow> {
    states.iter().map(row).collect()
}

fn row(state: &PolicyState) -> PolicyRow {
    let policy = &state.authored.policy;
    let condition = |said: Said| ConditionRow {
        kind: said.kind.into(),
        status: said.status,
        reason: said.reason.into(),
        message: said.message,
        observed_generation: said.generation,
    };
    PolicyRow {
        namespace: policy.key.namespace.to_string(),
        name: policy.key.name.to_string(),
        action: policy.action,
        mode: policy.mode,
        targets: targets(state),
        rules: policy.rules.iter().map(ToString::to_string).collect(),
        pods: state.pods as u64,
        generation: state.authored.generation,
        nodes_pending: state.pending.iter().map(|node| node.to_string()).collect(),
        conditions: conditions(Some(state), None).into_iter().map(condition).collect(),
    }
}

fn targets(state: &PolicyState) -> Vec<String> {
    let reach = &state.authored.policy.reach;
    let mesh = reach.mesh.then(|| "the whole mesh".to_owned());
    let namespaces = reach.namespaces.iter().map(|namespace| format!("namespace {namespace}"));
    let targets = state.authored.targets.iter().map(|target| match target {
        Target::Service(key) => format!("Service {}", key.name),
        Target::Pods(within, selector) => {
            let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
            let expressions = selector.match_expressions.iter().flatten().map(|one| {
                let values = one.values.as_deref().unwrap_or_default().join(",");
                format!("{} {} {values}", one.key, one.operator).trim_end().to_owned()
            });
            let words: Vec<String> = labels.chain(expressions).collect();
            let within = if *within == Within::Mesh { " of the whole mesh" } else { "" };
            format!("pods{within} with {}", words.join(", "))
        }
    });
    mesh.into_iter().chain(namespaces).chain(targets).collect()
}

/// What the status should be, keeping the times of what stays as it is. Pure.
pub(super) fn status(
    said: &[Said],
    state: Option<&PolicyState>,
    old: &AuthorizationPolicyStatus,
    now: Timestamp,
) -> AuthorizationPolicyStatus {
    let condition = |said: &Said| {
        let status = if said.status { "True" } else { "False" };
        let same = old.conditions.iter().find(|old| old.type_ == said.kind && old.status == status);
        Condition {
            type_: said.kind.into(),
            status: status.into(),
            reason: said.reason.into(),
            message: said.message.clone(),
            last_transition_time: same.map_or_else(
                || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
                |same| same.last_transition_time.clone(),
            ),
            observed_generation: said.generation,
        }
    };
    AuthorizationPolicyStatus {
        observed_generation: said.first().and_then(|accepted| accepted.generation),
        targeted_pods: state.and_then(|state| i32::try_from(state.pods).ok()),
        conditions: said.iter().map(condition).collect(),
    }
}

/// Writes statuses until shutdown.
pub(super) async fn keep(shared: Reconcile, mut leader: watch::Receiver<bool>) {
    let mut changes = shared.board.changes();
    let mut trouble = Trouble::default();
    let mut states: BTreeMap<PolicyKey, PolicyState> = BTreeMap::new();
    let mut well = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shared.shutdown.wait() => return,
        }
        let mut touched =
            !well || changes.has_changed().unwrap_or(true) || leader.has_changed().unwrap_or(true);
        changes.mark_unchanged();
        let leads = *leader.borrow_and_update();
        if let Some(new) = shared.hub.policies_if_touched() {
            states = new.into_iter().map(|state| (state.authored.policy.key.clone(), state)).collect();
            touched = true;
        }
        let elsewhere = shared.board.policies_elsewhere(&shared.replica);
        shared.hub.set_policies_elsewhere(elsewhere);
        if touched && leads {
            well = write_all(&shared, &states, &mut trouble).await;
        }
    }
}

async fn write_all(
    shared: &Reconcile,
    states: &BTreeMap<PolicyKey, PolicyState>,
    trouble: &mut Trouble,
) -> bool {
    let now = Timestamp::now();
    let seen: BTreeMap<PolicyKey, Arc<SeenPolicy>> = shared.board.policies();
    let mut writes = Vec::new();
    for (key, seen) in &seen {
        let state = states.get(key);
        let broken = seen.verdict.as_ref().err().map(|error| (seen.generation, error.as_str()));
        // Seen by the watch and not yet by the index.
        let is_current =
            broken.is_some() || state.is_some_and(|state| state.authored.generation == seen.generation);
        let wanted = status(&conditions(state, broken), state, &seen.status, now);
        if is_current && wanted != seen.status {
            writes.push(write_one(shared.client.clone(), key.clone(), wanted));
        }
    }
    let mut written = futures_util::stream::iter(writes).buffer_unordered(WRITES);
    let mut well = true;
    while let Some(done) = written.next().await {
        match done {
            Ok(()) => trouble.over(),
            // It is gone, or changed: the watch says so.
            Err(error) if is_absent(&error) || is_conflict(&error) => {}
            Err(error) => {
                trouble.said("patch", STATUS, &error, &shared.metrics);
                well = false;
            }
        }
    }
    well
}

async fn write_one(
    client: Client,
    key: PolicyKey,
    status: AuthorizationPolicyStatus,
) -> Result<(), kube::Error> {
    let api: Api<AuthorizationPolicy> = Api::namespaced(client, &key.namespace);
    let object = json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": *key.name, "namespace": *key.namespace },
        "status": status,
    });
    api.patch_status(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await.map(drop)
}
