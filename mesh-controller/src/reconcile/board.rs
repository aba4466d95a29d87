//! What the watches saw of the objects that are no facts: Nodes' names, NodeStates, MeshConfigs, Leases, problems.
//!
//! Whoever writes looks here first, so that nothing is asked of the API server that a watch has said already.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use mesh_crd::authorization_policy::AuthorizationPolicyStatus;
use mesh_crd::mesh_config::{LogFormat, MeshConfigStatus, MtlsMode};
use mesh_crd::{AuthorizationPolicy, MeshConfig, NodeState, NodeStateStatus};
use mesh_model::policy::PolicyKey;
use mesh_model::{TrustDomain, Uid};
use mesh_telemetry::logs::Format;
use tokio::sync::watch;

use crate::index::facts::{self, Reading};
use crate::publish::Hub;
use crate::watch::kubernetes::ObjectName;

/// Shared by the watches and the reconcilers.
#[derive(Debug)]
pub struct Board {
    trust_domain: TrustDomain,
    /// Where it is asked who may have a certificate.
    hub: Arc<Hub>,
    /// Held for a look or an insert.
    state: Mutex<State>,
    /// Rises with every change.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) nodes: BTreeSet<String>,
    pub(super) node_states: BTreeMap<String, SeenNodeState>,
    pub(super) mesh_configs: BTreeMap<String, SeenMeshConfig>,
    pub(super) leases: BTreeMap<String, SeenLease>,
    pub(super) policies: BTreeMap<PolicyKey, Arc<SeenPolicy>>,
    /// What is to be said of objects as things stand, by who says so.
    pub(super) standing: BTreeMap<&'static str, Vec<Standing>>,
    /// Kinds that were listed at least once.
    whole: HashSet<&'static str>,
}

/// A NodeState as of the last event.
#[derive(Clone, Debug)]
pub(super) struct SeenNodeState {
    pub(super) version: String,
    pub(super) status: NodeStateStatus,
}

/// A MeshConfig likewise.
#[derive(Clone, Debug)]
pub(super) struct SeenMeshConfig {
    pub(super) generation: Option<i64>,
    pub(super) status: MeshConfigStatus,
    /// In force as it stands, or why not.
    pub(super) verdict: Result<(), String>,
    pub(super) trust_domain: Option<String>,
    /// It asks for `mtls: Strict` in the whole mesh.
    pub(super) is_strict: bool,
    /// Of the last one that was good.
    pub(super) own: Own,
}

/// An AuthorizationPolicy likewise.
#[derive(Clone, Debug)]
pub(super) struct SeenPolicy {
    pub(super) generation: Option<i64>,
    pub(super) status: AuthorizationPolicyStatus,
    /// It can be in force as it stands, or why not.
    pub(super) verdict: Result<(), String>,
}

/// What of a MeshConfig concerns the controller itself and is followed live.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    /// Of certificates.
    pub(super) lifetime: Option<Duration>,
    pub(super) log_format: Option<Format>,
}

impl Own {
    fn of(object: &MeshConfig) -> Self {
        Self {
            lifetime: object.certificate_lifetime().ok().flatten(),
            log_format: object.spec.log_format.map(|format| match format {
                LogFormat::Text => Format::Text,
                LogFormat::Json => Format::Json,
            }),
        }
    }
}

/// A Lease likewise.
#[derive(Clone, Debug)]
pub(super) struct SeenLease {
    pub(super) version: String,
    pub(super) holder: String,
    pub(super) transitions: i32,
    /// What the holder wrote; equal means that it was silent.
    pub(super) renewed: String,
    pub(super) acknowledged: String,
    /// When it was last different, by this process's clock: no other clock counts.
    pub(super) heard: Instant,
}

/// Something to be said of an object as long as it is so: a Warning Event, in the leader's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of which.
    pub object: ObjectName,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

/// What another replica says of a node's captures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Captured.
    pub captured: Vec<Uid>,
    /// Let go.
    pub withdrawn: Vec<Uid>,
    /// Of those, which its agent waits for before it closes 15008.
    pub leaving: Vec<Uid>,
}

impl Words {
    /// As a NodeState has them.
    pub(super) fn of(status: &NodeStateStatus) -> Self {
        let uids = |list: &[String]| list.iter().map(|uid| Uid::new(uid)).collect();
        Self {
            captured: uids(&status.captured),
            withdrawn: uids(&status.withdrawn),
            leaving: uids(&status.leaving),
        }
    }
}

impl Board {
    /// An empty board of a mesh that runs with a trust domain.
    pub fn new(trust_domain: TrustDomain, hub: Arc<Hub>) -> Self {
        Self { trust_domain, hub, state: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// The trust domain that is in force.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
    }

    /// Wakes with each change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A kind was listed.
    pub(crate) fn whole(&self, kind: &'static str) {
        self.change(|state| {
            state.whole.insert(kind);
        });
    }

    /// What every node's agent said, as the NodeStates have it.
    pub(crate) fn words(&self) -> Vec<(String, Words)> {
        let state = self.state();
        state.node_states.iter().map(|(node, seen)| (node.clone(), Words::of(&seen.status))).collect()
    }

    pub(crate) fn account(&self, namespace: &str, name: &str, there: bool) {
        self.hub.account(namespace, name, there);
    }

    pub(crate) fn node(&self, name: &str, there: bool) {
        let known = self.state().nodes.contains(name);
        // Nodes change all the time, their names seldom.
        if known != there {
            self.change(|state| {
                match there {
                    true => state.nodes.insert(name.into()),
                    false => state.nodes.remove(name),
                };
            });
        }
    }

    pub(crate) fn node_state(&self, object: &NodeState) {
        let version = object.resource_version().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let seen = SeenNodeState { version, status };
        self.change(|state| drop(state.node_states.insert(object.name_any(), seen)));
    }

    /// What we have just written, unless the watch has brought something else meanwhile.
    pub(super) fn wrote_node_state(&self, replaced: &str, object: &NodeState) {
        let known = self.state().node_states.get(&object.name_any()).map(|seen| seen.version.clone());
        if known.unwrap_or_default() == replaced {
            self.node_state(object);
        }
    }

    pub(crate) fn no_node_state(&self, name: &str) {
        self.change(|state| drop(state.node_states.remove(name)));
    }

    pub(crate) fn mesh_config(&self, object: &MeshConfig) {
        let verdict = object.settings().map(drop).map_err(|error| crate::chain(&error));
        self.change(|state| {
            // The last good one stays in force.
            let own = match &verdict {
                Ok(()) => Own::of(object),
                Err(_) => state.mesh_configs.get(&object.name_any()).map(|old| old.own).unwrap_or_default(),
            };
            let seen = SeenMeshConfig {
                generation: object.metadata.generation,
                status: object.status.clone().unwrap_or_default(),
                verdict,
                trust_domain: object.spec.trust_domain.clone(),
                is_strict: object.spec.mtls == Some(MtlsMode::Strict),
                own,
            };
            state.mesh_configs.insert(object.name_any(), seen);
        });
    }

    /// One that cannot even be read.
    pub(crate) fn broken_mesh_config(&self, name: &str, generation: Option<i64>, error: &str) {
        self.change(|state| {
            let old = state.mesh_configs.get(name);
            let seen = SeenMeshConfig {
                generation,
                status: old.map(|old| old.status.clone()).unwrap_or_default(),
                verdict: Err(error.into()),
                trust_domain: old.and_then(|old| old.trust_domain.clone()),
                is_strict: old.is_some_and(|old| old.is_strict),
                own: old.map(|old| old.own).unwrap_or_default(),
            };
            state.mesh_configs.insert(name.into(), seen);
        });
    }

    pub(crate) fn no_mesh_config(&self, name: &str) {
        self.change(|state| drop(state.mesh_configs.remove(name)));
    }

    pub(crate) fn policy(&self, object: &AuthorizationPolicy, reading: &Reading) {
        let read = facts::policy(object, reading).map(drop).map_err(|error| crate::chain(&error));
        let key = PolicyKey::new(&object.namespace().unwrap_or_default(), &object.name_any());
        let seen = SeenPolicy {
            generation: object.metadata.generation,
            status: object.status.clone().unwrap_or_default(),
            verdict: read,
        };
        self.change(|state| drop(state.policies.insert(key, Arc::new(seen))));
    }

    /// One that cannot even be read.
    pub(crate) fn broken_policy(&self, key: PolicyKey, generation: Option<i64>, error: &str) {
        self.change(|state| {
            let status = state.policies.get(&key).map(|old| old.status.clone()).unwrap_or_default();
            let seen = SeenPolicy { generation, status, verdict: Err(error.into()) };
            state.policies.insert(key, Arc::new(seen));
        });
    }

    pub(crate) fn no_policy(&self, key: &PolicyKey) {
        self.change(|state| drop(state.policies.remove(key)));
    }

    pub(super) fn policies(&self) -> BTreeMap<PolicyKey, Arc<SeenPolicy>> {
        self.state().policies.clone()
    }

    /// What agents of other replicas have applied of policies, by node.
    pub(super) fn policies_elsewhere(&self, replica: &str) -> BTreeMap<String, u128> {
        let state = self.state();
        let others = state.node_states.iter().filter(|(_, seen)| {
            let is_connected =
                seen.status.conditions.iter().any(|c| c.type_ == "Connected" && c.status == "True");
            is_connected && seen.status.replica.as_deref() != Some(replica)
        });
        let digest = |seen: &SeenNodeState| u128::from_str_radix(seen.status.policies.as_deref()?, 16).ok();
        others.filter_map(|(node, seen)| Some((node.clone(), digest(seen)?))).collect()
    }

    pub(crate) fn lease(&self, object: &Lease) {
        let spec = object.spec.clone().unwrap_or_default();
        let renewed = spec.renew_time.map(|time| time.0.to_string()).unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let acknowledged = object.annotations().get(super::leases::ACKNOWLEDGED).cloned().unwrap_or_default();
        self.change(|state| {
            let old = state.leases.get(&object.name_any());
            let same = old.filter(|old| old.renewed == renewed && old.holder == holder);
            let seen = SeenLease {
                version: object.resource_version().unwrap_or_default(),
                heard: same.map_or_else(Instant::now, |old| old.heard),
                transitions: spec.lease_transitions.unwrap_or(0),
                holder,
                renewed,
                acknowledged,
            };
            state.leases.insert(object.name_any(), seen);
        });
    }

    pub(crate) fn no_lease(&self, name: &str) {
        self.change(|state| drop(state.leases.remove(name)));
    }

    /// What is to be said of objects from now on, in place of what the same source said before.
    pub fn standing(&self, source: &'static str, notices: Vec<Standing>) {
        if self.state().standing.get(source).map_or(!notices.is_empty(), |old| *old != notices) {
            self.change(|state| drop(state.standing.insert(source, notices)));
        }
    }
}

impl State {
    /// A Node is there, as far as anybody knows.
    pub(super) fn has_node(&self, name: &str) -> bool {
        !self.is_whole("Node") || self.nodes.contains(name)
    }

    /// Whether a kind was listed at least once.
    pub(super) fn is_whole(&self, kind: &str) -> bool {
        self.whole.contains(kind)
    }
}
