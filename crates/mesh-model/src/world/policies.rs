//! The policies of a world, by whom they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::World;
use crate::policy::{Judgement, Peer, Policy, PolicyKey, Rules};
use crate::{Change, Workload};

/// All policies. Cheap to clone as long as nobody changes it: a world holds it behind an `Arc`.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    all: BTreeMap<PolicyKey, Arc<Policy>>,
    mesh: BTreeSet<PolicyKey>,
    by_namespace: HashMap<Arc<str>, BTreeSet<PolicyKey>>,
}

impl Policies {
    pub(super) fn set(&mut self, policy: Policy) {
        self.remove(&policy.key);
        if policy.reach.mesh {
            self.mesh.insert(policy.key.clone());
        }
        for namespace in &policy.reach.namespaces {
            self.by_namespace.entry(namespace.clone()).or_default().insert(policy.key.clone());
        }
        self.all.insert(policy.key.clone(), Arc::new(policy));
    }

    pub(super) fn remove(&mut self, key: &PolicyKey) {
        let Some(old) = self.all.remove(key) else { return };
        self.mesh.remove(key);
        for namespace in &old.reach.namespaces {
            if let Some(keys) = self.by_namespace.get_mut(namespace) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_namespace.remove(namespace);
                }
            }
        }
    }
}

impl World {
    pub(super) fn apply_policy(&mut self, change: Change) {
        let policies = Arc::make_mut(&mut self.policies);
        match change {
            Change::Policy(policy) => policies.set(policy),
            Change::PolicyRemoved(key) => policies.remove(&key),
            _ => {}
        }
    }

    /// A policy by name.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.all.get(key)
    }

    /// All policies, in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.all.values()
    }

    /// What decides on connections to a workload.
    pub fn rules_for<'a>(&'a self, workload: &'a Workload) -> Rules<'a> {
        let policies = &*self.policies;
        let bindings = workload.bindings.as_deref();
        let listed = bindings.into_iter().flat_map(|bindings| &bindings.policies);
        let of_namespace = policies.by_namespace.get(&workload.namespace).into_iter().flatten();
        let mut rules = Rules {
            mtls: bindings.map(|bindings| bindings.mtls.as_slice()).unwrap_or_default(),
            otherwise: self.mesh().and_then(|mesh| mesh.mtls).unwrap_or_default(),
            ..Rules::default()
        };
        for key in listed.chain(of_namespace).chain(&policies.mesh) {
            match policies.all.get(key) {
                Some(policy) => rules.policies.push(policy),
                None => rules.missing = Some(key),
            }
        }
        rules.policies.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        rules.policies.dedup_by(|a, b| a.key == b.key);
        rules
    }

    /// Whether a connection to a workload's own port is admitted.
    pub fn judge<'a>(&'a self, destination: &'a Workload, peer: Peer<'_>, port: u16) -> Judgement<'a> {
        self.rules_for(destination).judge(peer, port)
    }
}
