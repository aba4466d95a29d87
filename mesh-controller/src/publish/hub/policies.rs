//! Which policies are known to every agent that must know them.
//!
//! ```text
//! policy set, or listed by another pod ─▶ since: the generation that says so
//! agent acknowledges a generation ≥ since ─▶ its node has applied it
//! agent of another replica ─▶ NodeState.status.policies: a digest ─▶ the newest generation here with that digest
//! ```
//!
//! The digest is of all policies and of who lists which, so two replicas that see the same objects come to the same one, in
//! whatever steps. Invariant: a node counts as having applied a policy only if its agent acknowledged what is published now.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use mesh_crd::authorization_policy::{Authored, Target};
use mesh_model::policy::{Condition, IdentityPattern, PolicyKey};
use mesh_model::{Change, ServiceKey, Uid};
use mesh_xds::{Resource, Version};

use super::{Hub, State};
use crate::index::Index;

/// Digests that are remembered: how far an agent of another replica may be behind and still be placed.
const HISTORY: usize = 1_024;
/// Names in a warning before the rest is counted.
const NAMED: usize = 5;

/// What is published of policies.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// The generation from which on a policy, and who lists it, is as it is now.
    since: HashMap<PolicyKey, u64>,
    /// What a workload contributes to the digest by what it lists.
    listed: HashMap<Uid, u128>,
    policies: HashMap<PolicyKey, u128>,
    digest: u128,
    /// The digest from a generation on, the newest last.
    history: VecDeque<(u64, u128)>,
    /// What agents of other replicas have applied, by node.
    elsewhere: BTreeMap<String, u128>,
    /// Something may be different from what was last taken.
    dirty: bool,
}

/// A policy, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyState {
    /// As its object says.
    pub authored: Authored,
    /// Pods that it is about and that are in the mesh.
    pub pods: usize,
    /// Pods that it is about and that are not.
    pub outside: usize,
    /// Nodes of the former whose agents have not applied it.
    pub pending: BTreeSet<Arc<str>>,
    /// What is probably not what was meant.
    pub warnings: Vec<String>,
}

impl Applied {
    /// Before changes are published: what they add to the digest, and which policies they are about.
    pub(super) fn note(
        &mut self,
        changes: &[Change],
        mut touched: BTreeSet<PolicyKey>,
    ) -> BTreeSet<PolicyKey> {
        for change in changes {
            match change {
                Change::Policy(policy) => {
                    let version = Resource::Policy(policy.clone()).encode().version;
                    self.exchange_policy(&policy.key, Some(version));
                    touched.insert(policy.key.clone());
                }
                Change::PolicyRemoved(key) => {
                    self.exchange_policy(key, None);
                    self.since.remove(key);
                    touched.remove(key);
                }
                Change::Workload(workload) => {
                    let listed = workload.bindings.as_ref().map(|bindings| &bindings.policies);
                    let listed = listed.filter(|policies| !policies.is_empty()).map(|policies| {
                        let names: Vec<String> = policies.iter().map(PolicyKey::to_string).collect();
                        let uid = std::iter::once(workload.uid.as_str());
                        let parts = uid.chain(names.iter().map(String::as_str));
                        number(Version::over(parts.map(str::as_bytes)))
                    });
                    self.exchange_listed(&workload.uid, listed);
                }
                Change::WorkloadRemoved(uid) => self.exchange_listed(uid, None),
                _ => {}
            }
        }
        self.dirty |= !changes.is_empty();
        touched
    }

    fn exchange_policy(&mut self, key: &PolicyKey, new: Option<Version>) {
        let new = new.map(number);
        let old = match new {
            Some(new) => self.policies.insert(key.clone(), new),
            None => self.policies.remove(key),
        };
        self.digest ^= old.unwrap_or(0) ^ new.unwrap_or(0);
    }

    fn exchange_listed(&mut self, uid: &Uid, new: Option<u128>) {
        let old = match new {
            Some(new) => self.listed.insert(uid.clone(), new),
            None => self.listed.remove(uid),
        };
        self.digest ^= old.unwrap_or(0) ^ new.unwrap_or(0);
    }

    /// They are published.
    pub(super) fn published(&mut self, touched: BTreeSet<PolicyKey>, generation: u64) {
        for key in touched {
            self.since.insert(key, generation);
        }
        if self.history.back().is_none_or(|(_, digest)| *digest != self.digest) {
            self.history.push_back((generation, self.digest));
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
    }

    /// The digest that an agent has which acknowledged a generation.
    fn digest_at(&self, generation: u64) -> Option<u128> {
        self.history.iter().rev().find(|(from, _)| *from <= generation).map(|(_, digest)| *digest)
    }

    /// The newest generation at which a digest was in force here, given the newest of all.
    fn generation_of(&self, digest: u128, newest: u64) -> Option<u64> {
        let at = self.history.iter().rposition(|(_, known)| *known == digest)?;
        Some(self.history.get(at + 1).map_or(newest, |(next, _)| next.saturating_sub(1)))
    }
}

fn number(version: Version) -> u128 {
    u128::from_be_bytes(version.0)
}

impl Hub {
    /// What agents of other replicas say that they have applied, by node.
    pub fn set_policies_elsewhere(&self, digests: BTreeMap<String, u128>) {
        let mut state = self.state();
        if state.applied.elsewhere != digests {
            state.applied.elsewhere = digests;
            state.applied.dirty = true;
        }
    }

    /// An agent acknowledged something, came, or went.
    pub(super) fn policies_may_differ(state: &mut State) {
        state.applied.dirty = true;
    }

    /// Every policy and how far it has come, if that may be different from what the last call returned.
    pub fn policies_if_touched(&self) -> Option<Vec<PolicyState>> {
        let mut state = self.state();
        std::mem::take(&mut state.applied.dirty).then(|| state.policy_states())
    }

    /// Every policy and how far it has come.
    pub fn policies(&self) -> Vec<PolicyState> {
        self.state().policy_states()
    }
}

impl State {
    /// The digest of policies that a stream's agent has applied.
    pub(super) fn policies_of_stream(&self, id: u64) -> Option<u128> {
        self.applied.digest_at(self.streams.get(&id)?.acked)
    }

    /// The digest of policies that a node's agent has applied here, if it is connected.
    pub(super) fn policies_of(&self, node: &str) -> Option<u128> {
        let acked =
            self.streams.values().filter(|stream| stream.node == node).map(|stream| stream.acked).max()?;
        self.applied.digest_at(acked)
    }

    /// The newest generation that each node's agent has, as far as policies go.
    fn applied_by_node(&self) -> HashMap<&str, u64> {
        let newest = self.published.generation();
        let mut by_node = HashMap::new();
        for (node, digest) in &self.applied.elsewhere {
            if let Some(generation) = self.applied.generation_of(*digest, newest) {
                by_node.insert(node.as_str(), generation);
            }
        }
        for stream in self.streams.values() {
            let known = by_node.entry(stream.node.as_str()).or_insert(0);
            *known = (*known).max(stream.acked);
        }
        by_node
    }

    fn policy_states(&self) -> Vec<PolicyState> {
        let applied = self.applied_by_node();
        let has_account = |namespace: &str, name: &str| {
            let known = self.accounts.as_ref();
            known.is_none_or(|known| known.contains(&(namespace.to_owned(), name.to_owned())))
        };
        let state = |authored: &Authored| {
            let since = self.applied.since.get(&authored.policy.key).copied().unwrap_or(0);
            let (mut pods, mut outside, mut pending) = (0, 0, BTreeSet::new());
            for pod in self.index.targeted(authored) {
                let workload = self.index.workload(&pod.uid).filter(|workload| workload.enrolled);
                let Some(workload) = workload.filter(|workload| !workload.node.is_empty()) else {
                    outside += 1;
                    continue;
                };
                pods += 1;
                if applied.get(&*workload.node).is_none_or(|generation| *generation < since) {
                    pending.insert(workload.node.clone());
                }
            }
            let mut warnings = authored.warnings.clone();
            warnings.extend(doubts(authored, &self.index, &has_account, pods + outside));
            PolicyState { authored: authored.clone(), pods, outside, pending, warnings }
        };
        self.index.all_authored().map(state).collect()
    }
}

/// What only the whole cluster can tell: names of what is not there.
fn doubts(
    authored: &Authored,
    index: &Index,
    has_account: &dyn Fn(&str, &str) -> bool,
    targeted: usize,
) -> Vec<String> {
    let mut doubts = Vec::new();
    let mut absent = BTreeSet::new();
    let rules = authored.policy.rules.iter();
    let sources = rules.flat_map(|rule| rule.sources.iter().flatten());
    let conditions = sources.flat_map(|source| source.all.iter().chain(source.none.iter().flatten()));
    for pattern in conditions.filter_map(|condition| match condition {
        Condition::Identity(pattern) => Some(pattern),
        Condition::Address(_) => None,
    }) {
        absent.extend(missing(pattern, index, has_account));
    }
    if !absent.is_empty() {
        let named: Vec<&str> = absent.iter().take(NAMED).map(String::as_str).collect();
        let more = absent.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        doubts.push(format!(
            "spec.rules: there is no {}{more}: is it a mistake in writing?",
            named.join(", no ")
        ));
    }
    for target in &authored.targets {
        if let Target::Service(key @ ServiceKey { name, .. }) = target
            && !index.has_service(key)
        {
            doubts
                .push(format!("spec.targetRefs: there is no Service {name} in namespace {}", key.namespace));
        }
    }
    if targeted == 0 {
        doubts.push("spec.targetRefs: it targets no pod".into());
    }
    doubts
}

fn missing(
    pattern: &IdentityPattern,
    index: &Index,
    has_account: &dyn Fn(&str, &str) -> bool,
) -> Option<String> {
    // Of other trust domains nothing is known.
    let ours = pattern.trust_domain().is_some_and(|domain| index.knows_trust_domain(domain));
    let namespace = pattern.namespace().filter(|_| ours)?;
    if !index.has_namespace(namespace) {
        return Some(format!("namespace {namespace}"));
    }
    let account = pattern.service_account()?;
    (!has_account(namespace, account)).then(|| format!("service account {namespace}/{account}"))
}
