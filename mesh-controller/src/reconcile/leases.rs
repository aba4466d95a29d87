//! Who is alive, who is the leader, and which withdrawals every replica's agents know: Leases in Weft's own namespace.
//!
//! ```text
//! weft-replica-NAME   one each, renewed while it lives; its annotation says which withdrawals all of its agents know
//! weft-controller     the leader's; taken over when its holder is silent
//! ```
//!
//! Silence is measured by this process's own clock, from what the watch shows: no clock is compared with another's. A replica
//! whose own Lease does not come back by the watch sees nothing, so it takes nobody for dead. Only status is the leader's:
//! every replica serves and signs.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use mesh_model::Uid;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::board::{SeenLease, State};
use super::said::{Trouble, is_absent, is_conflict};
use super::{MANAGER, Reconcile};

/// On a replica's Lease: UIDs of pods, with commas between them.
pub(super) const ACKNOWLEDGED: &str = "weft.dev/acknowledged";
/// The leader's Lease.
pub(super) const LEADER: &str = "weft-controller";
/// What the name of a replica's Lease begins with.
pub(super) const REPLICA: &str = "weft-replica-";
/// A holder that was silent for so long is gone.
pub(super) const SILENT: Duration = Duration::from_secs(15);
/// So often a Lease is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// A leader that could not renew for so long no longer leads: before anybody else may.
const DOUBT: Duration = Duration::from_secs(10);
/// The Lease of a replica that was silent for so long is removed.
const FORGET: Duration = Duration::from_secs(120);
/// An answer of the API server takes at most so long.
const ANSWER: Duration = Duration::from_secs(5);
/// So often everything is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// UIDs in one annotation: an object's annotations together have at most 256 KiB.
const MOST: usize = 5_000;
const RESOURCE: &str = "leases.coordination.k8s.io";

/// What to do about the leader's Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is somebody else's, or ours and fresh.
    Nothing,
    /// There is none.
    Create,
    /// It is ours, as of this version.
    Renew(String),
    /// Its holder is gone or silent.
    Take(String),
}

/// Pure. `due`: ours is to be renewed.
pub(super) fn step(lease: Option<&SeenLease>, me: &str, now: Instant, due: bool) -> Step {
    let Some(lease) = lease else { return Step::Create };
    let silent = now.saturating_duration_since(lease.heard) > SILENT;
    if lease.holder == me {
        return if due { Step::Renew(lease.version.clone()) } else { Step::Nothing };
    }
    if lease.holder.is_empty() || silent { Step::Take(lease.version.clone()) } else { Step::Nothing }
}

/// The other replicas that count as alive, and what they say that their agents know. Pure.
pub(super) fn others(state: &State, me: &str, now: Instant) -> BTreeMap<String, HashSet<Uid>> {
    let silent_for = |lease: &SeenLease| now.saturating_duration_since(lease.heard);
    let mine = state.leases.get(&format!("{REPLICA}{me}"));
    // Who does not see its own renewals sees nobody's.
    let sees = mine.is_some_and(|mine| silent_for(mine) < DOUBT);
    let other = |(name, lease): (&String, &SeenLease)| {
        let name = name.strip_prefix(REPLICA).filter(|name| *name != me)?;
        if lease.holder.is_empty() || (sees && silent_for(lease) > SILENT) {
            return None;
        }
        let known = lease.acknowledged.split(',').filter(|uid| !uid.is_empty()).map(Uid::new).collect();
        Some((name.to_owned(), known))
    };
    state.leases.iter().filter_map(other).collect()
}

/// Replicas whose Lease can be removed. Pure.
fn forgotten(state: &State, me: &str, now: Instant) -> Vec<String> {
    let gone = |lease: &SeenLease| now.saturating_duration_since(lease.heard) > FORGET;
    let name = |(name, lease): (&String, &SeenLease)| {
        (name.starts_with(REPLICA) && *name != format!("{REPLICA}{me}") && gone(lease)).then(|| name.clone())
    };
    state.leases.iter().filter_map(name).collect()
}

struct Keeper {
    shared: Reconcile,
    api: Api<Lease>,
    /// What this replica's Lease says that its agents know, and when it was written.
    written: Option<(String, Instant)>,
    /// When the leader's Lease was last written by us.
    led: Option<Instant>,
    trouble: Trouble,
    leader_trouble: Trouble,
}

/// Keeps both Leases until shutdown, then gives them back.
pub(super) async fn keep(shared: Reconcile, leader: watch::Sender<bool>, registered: watch::Sender<bool>) {
    let hold = shared.shutdown.hold();
    let api = Api::namespaced(shared.client.clone(), &shared.namespace);
    let mut changes = shared.board.changes();
    let (trouble, leader_trouble) = (Trouble::default(), Trouble::default());
    let mut keeper = Keeper { shared, api, written: None, led: None, trouble, leader_trouble };
    loop {
        keeper.replica().await;
        registered.send_if_modified(|done| {
            let now = keeper.written.is_some();
            std::mem::replace(done, now || *done) != *done
        });
        keeper.leader().await;
        let leads = keeper.led.is_some_and(|at| at.elapsed() < DOUBT);
        leader.send_if_modified(|old| {
            if *old != leads {
                tracing::info!(replica = keeper.shared.replica, leads, "leadership");
            }
            std::mem::replace(old, leads) != leads
        });
        keeper.shared.metrics.leader.set(i64::from(leads));
        keeper.share(leads).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = changes.changed() => {}
            () = keeper.shared.hub.acknowledged_changed() => {}
            () = keeper.shared.shutdown.wait() => break,
        }
    }
    keeper.give_back(leader).await;
    drop(hold);
}

impl Keeper {
    /// This replica's own Lease.
    async fn replica(&mut self) {
        let acknowledged = self.shared.hub.acknowledged();
        let uids: Vec<_> = acknowledged.iter().take(MOST).map(Uid::as_str).collect();
        let uids = uids.join(",");
        let fresh = |(said, at): &(String, Instant)| *said == uids && at.elapsed() < RENEW;
        if self.written.as_ref().is_some_and(fresh) {
            return;
        }
        let me = &self.shared.replica;
        let name = format!("{REPLICA}{me}");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/part-of": "weft", "app.kubernetes.io/component": "controller" },
                "annotations": { ACKNOWLEDGED: uids },
            },
            "spec": { "holderIdentity": me, "leaseDurationSeconds": SILENT.as_secs(), "renewTime": now() },
        });
        let params = PatchParams::apply(MANAGER).force();
        match answer(self.api.patch(&name, &params, &Patch::Apply(lease))).await {
            Ok(_) => {
                self.written = Some((uids, Instant::now()));
                self.trouble.over();
            }
            Err(error) => self.trouble.said("patch", RESOURCE, &error, &self.shared.metrics),
        }
    }

    /// The leader's, if it is ours to write.
    async fn leader(&mut self) {
        let step = {
            let state = self.shared.board.state();
            if !state.is_whole("Lease") {
                return;
            }
            let due = self.led.is_none_or(|at| at.elapsed() >= RENEW);
            step(state.leases.get(LEADER), &self.shared.replica, Instant::now(), due)
        };
        let me = &self.shared.replica;
        let mut spec =
            json!({ "holderIdentity": me, "leaseDurationSeconds": SILENT.as_secs(), "renewTime": now() });
        let (verb, written) = match step {
            Step::Nothing => return,
            Step::Create => {
                let lease = json!({ "metadata": { "name": LEADER }, "spec": spec });
                ("create", answer(self.create(lease)).await)
            }
            Step::Renew(version) => ("patch", answer(self.patch_leader(version, spec)).await),
            Step::Take(version) => {
                let before =
                    self.shared.board.state().leases.get(LEADER).map_or(0, |lease| lease.transitions);
                spec["acquireTime"] = now();
                spec["leaseTransitions"] = (before + 1).into();
                ("patch", answer(self.patch_leader(version, spec)).await)
            }
        };
        match written {
            Ok(()) => {
                self.led = Some(Instant::now());
                self.leader_trouble.over();
            }
            // Somebody else was faster, or we look at an old version: the watch brings the newest.
            Err(error) if is_conflict(&error) || is_absent(&error) => {}
            Err(error) => self.leader_trouble.said(verb, RESOURCE, &error, &self.shared.metrics),
        }
        let state = self.shared.board.state();
        let lease = state.leases.get(LEADER);
        if lease.is_some_and(|lease| lease.holder != *me && self.led.is_some_and(|at| lease.heard > at)) {
            self.led = None;
        }
    }

    async fn create(&self, lease: Value) -> kube::Result<()> {
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        self.api.create(&PostParams::default(), &lease).await.map(drop)
    }

    /// Refused if it is no longer of this version.
    async fn patch_leader(&self, version: String, spec: Value) -> kube::Result<()> {
        let patch = json!({ "metadata": { "resourceVersion": version }, "spec": spec });
        self.api.patch(LEADER, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// What the other replicas say, for the hub; and what is left of those that are gone.
    async fn share(&mut self, leads: bool) {
        let (others, forgotten) = {
            let state = self.shared.board.state();
            let now = Instant::now();
            (others(&state, &self.shared.replica, now), forgotten(&state, &self.shared.replica, now))
        };
        self.shared.hub.set_others(others);
        for name in forgotten.iter().filter(|_| leads) {
            match answer(self.api.delete(name, &DeleteParams::default())).await {
                Ok(_) => tracing::info!(lease = name, "removed the Lease of a replica that is gone"),
                Err(error) if is_absent(&error) => {}
                Err(error) => self.trouble.said("delete", RESOURCE, &error, &self.shared.metrics),
            }
        }
    }

    /// So that nobody has to wait for our silence. Best effort: silence does the same, later.
    async fn give_back(&mut self, leader: watch::Sender<bool>) {
        leader.send_replace(false);
        let name = format!("{REPLICA}{}", self.shared.replica);
        let version = {
            let state = self.shared.board.state();
            let mine = state.leases.get(LEADER).filter(|lease| lease.holder == self.shared.replica);
            mine.map(|lease| lease.version.clone())
        };
        let nobody = json!({ "holderIdentity": "" });
        let params = DeleteParams::default();
        let (resigned, removed) = tokio::join!(
            async {
                match version {
                    Some(version) => answer(self.patch_leader(version, nobody)).await,
                    None => Ok(()),
                }
            },
            answer(self.api.delete(&name, &params)),
        );
        for error in resigned.err().into_iter().chain(removed.err()) {
            tracing::debug!(error = crate::chain(&error), "a Lease was not given back");
        }
    }
}

/// As Kubernetes writes it.
fn now() -> Value {
    json!(MicroTime(Timestamp::now()))
}

/// A call, bounded in time.
async fn answer<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("the API server does not answer".into())),
    }
}
