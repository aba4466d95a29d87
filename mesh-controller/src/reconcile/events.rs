//! Events: what agents and the controller have to say of pods, nodes and objects, where people look for it.
//!
//! ```text
//! hub (agents' words; labelled pods that are left alone) ─┐
//! board (what stands against objects) ────────────────────┴─▶ once each ─▶ at a bounded rate ─▶ events.k8s.io/v1
//! ```
//!
//! The name of an Event is made of what it says, so the same words of another replica, or from before a restart, are the
//! same Event. What the controller itself says is the leader's to write. Best effort: the log has everything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::said::{Trouble, is_conflict};
use super::{MANAGER, Reconcile, Standing};
use crate::publish::Told;
use crate::watch::kubernetes::ObjectName;

/// The same words are not written again before this.
const AGAIN: Duration = Duration::from_secs(600);
/// So many Events at once …
const BURST: u32 = 50;
/// … and then one for each of these.
const EVERY: Duration = Duration::from_millis(200);
/// Remembered words; more are forgotten, oldest first.
const MOST: usize = 10_000;
/// The longest note that the API takes, in bytes.
const LONGEST: usize = 1_024;
const ANSWER: Duration = Duration::from_secs(5);
const RESOURCE: &str = "events.events.k8s.io";

/// Something to write down.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) regarding: ObjectReference,
    pub(super) reason: String,
    pub(super) note: String,
    pub(super) warning: bool,
}

/// What was written when, and how much may be written now. Pure.
#[derive(Debug)]
pub(super) struct Limits {
    written: HashMap<String, (Instant, u32)>,
    tokens: u32,
    filled: Instant,
}

/// What to do with a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Write it, for the so many-th time.
    Write(u32),
    /// It was written a short while ago.
    Repeated,
    /// Too much at once.
    Dropped,
}

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        Self { written: HashMap::new(), tokens: BURST, filled: now }
    }

    pub(super) fn take(&mut self, name: &str, now: Instant) -> Verdict {
        let gained = now.saturating_duration_since(self.filled).as_millis() / EVERY.as_millis();
        let gained = u32::try_from(gained).unwrap_or(BURST).min(BURST);
        if gained > 0 {
            self.tokens = (self.tokens + gained).min(BURST);
            self.filled = now;
        }
        if self.written.len() >= MOST {
            self.written.retain(|_, (at, _)| now.saturating_duration_since(*at) < AGAIN);
        }
        let full = self.written.len() >= MOST;
        match self.written.entry(name.to_owned()) {
            Entry::Occupied(known) if now.saturating_duration_since(known.get().0) < AGAIN => {
                Verdict::Repeated
            }
            _ if self.tokens == 0 => Verdict::Dropped,
            Entry::Vacant(_) if full => Verdict::Dropped,
            entry => {
                self.tokens -= 1;
                let (at, count) = entry.or_insert((now, 0));
                (*at, *count) = (now, *count + 1);
                Verdict::Write(*count)
            }
        }
    }

    /// It was not written after all.
    fn forget(&mut self, name: &str) {
        self.written.remove(name);
    }
}

/// Writes down what there is to say, until shutdown.
pub(super) async fn keep(shared: Reconcile, mut leader: watch::Receiver<bool>) {
    let mut told = shared.hub.all_told();
    let mut changes = shared.board.changes();
    let mut recorder =
        Recorder { shared: shared.clone(), limits: Limits::new(Instant::now()), trouble: Trouble::default() };
    loop {
        let leads = *leader.borrow_and_update();
        tokio::select! {
            said = told.recv() => match said {
                Ok(told) if told.node.is_empty() && !leads => {}
                Ok(told) => recorder.told(&told).await,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "Events were lost: too many at once (the log has them)");
                }
                Err(RecvError::Closed) => return,
            },
            changed = leader.changed() => {
                if changed.is_err() { return }
                // Whoever led before may have said it: then it is the same Event.
                if *leader.borrow() {
                    for told in shared.hub.standing() {
                        recorder.told(&told).await;
                    }
                    recorder.standing().await;
                }
            }
            changed = changes.changed() => {
                if changed.is_err() { return }
                if leads {
                    recorder.standing().await;
                }
            }
            () = shared.shutdown.wait() => return,
        }
    }
}

struct Recorder {
    shared: Reconcile,
    limits: Limits,
    trouble: Trouble,
}

impl Recorder {
    async fn told(&mut self, told: &Told) {
        let regarding = match &told.uid {
            Some(uid) => {
                let Some((namespace, name)) = self.shared.hub.pod_name(uid) else { return };
                reference("Pod", "v1", &namespace, &name, Some(uid.as_str()))
            }
            // Kubelet refers to its node by name alone.
            None => reference("Node", "v1", "", &told.node, Some(&told.node)),
        };
        let Told { reason, note, warning, .. } = told.clone();
        self.write(Notice { regarding, reason, note, warning }).await;
    }

    async fn standing(&mut self) {
        let all: Vec<_> = self.shared.board.state().standing.values().flatten().cloned().collect();
        for Standing { object, reason, note } in all {
            let ObjectName { kind, api_version, namespace, name, uid } = object;
            let regarding = reference(kind, &api_version, &namespace, &name, uid.as_deref());
            self.write(Notice { regarding, reason: reason.into(), note, warning: true }).await;
        }
    }

    async fn write(&mut self, notice: Notice) {
        let name = name(&notice);
        let count = match self.limits.take(&name, Instant::now()) {
            Verdict::Write(count) => count,
            Verdict::Repeated => return self.shared.metrics.event("repeated"),
            Verdict::Dropped => return self.shared.metrics.event("dropped"),
        };
        let namespace = notice.regarding.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(self.shared.client.clone(), &namespace);
        let now = Timestamp::now();
        let event = event(notice, &name, &namespace, &self.shared.replica, now);
        let made = tokio::time::timeout(ANSWER, async {
            match api.create(&PostParams::default(), &event).await {
                Err(error) if is_conflict(&error) => {
                    let series =
                        json!({ "series": { "count": count + 1, "lastObservedTime": MicroTime(now) } });
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(series)).await.map(drop)
                }
                made => made.map(drop),
            }
        });
        match made.await {
            Ok(Ok(())) => {
                self.shared.metrics.event("written");
                self.trouble.over();
            }
            Ok(Err(error)) => {
                self.limits.forget(&name);
                self.trouble.said("create", RESOURCE, &error, &self.shared.metrics);
            }
            Err(_) => self.limits.forget(&name),
        }
    }
}

fn reference(
    kind: &str,
    api_version: &str,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> ObjectReference {
    ObjectReference {
        kind: Some(kind.into()),
        api_version: Some(api_version.into()),
        namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.into()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

/// Made of what is said of whom.
pub(super) fn name(notice: &Notice) -> String {
    let Notice { regarding, reason, note, .. } = notice;
    let mut digest = Sha256::new();
    let parts = [&regarding.kind, &regarding.namespace, &regarding.name, &regarding.uid];
    for part in parts.into_iter().map(|part| part.as_deref().unwrap_or_default()).chain([&**reason, note]) {
        digest.update(part);
        digest.update([0]);
    }
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let object: String = regarding.name.iter().flat_map(|name| name.chars().take(200)).collect();
    format!("{}.{digest}", object.trim_end_matches(['.', '-']))
}

fn event(notice: Notice, name: &str, namespace: &str, replica: &str, now: Timestamp) -> Event {
    let Notice { regarding, reason, note, warning } = notice;
    Event {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        action: Some("Capture".into()),
        event_time: Some(MicroTime(now)),
        note: Some(shortened(note)),
        reason: Some(reason),
        regarding: Some(regarding),
        reporting_controller: Some(format!("weft.dev/{MANAGER}")),
        reporting_instance: Some(replica.chars().take(128).collect()),
        type_: Some(if warning { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST {
        let end = (0..=LONGEST - 4).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push_str(" …");
    }
    note
}
