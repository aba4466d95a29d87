//! AuthorizationPolicies: which go out, and which workloads list which.
//!
//! ```text
//! policy ── reach (mesh, namespaces) ─▶ said in the policy itself
//!        └─ targets (labels, Services) ─▶ said by each workload that is selected (Bindings)
//! ```
//!
//! So a policy of a namespace or of the mesh touches no workload, and one that selects touches those that it selected before
//! or selects now. Policies are kept by where they look for pods: a pod is compared with those of its namespace and with the
//! mesh-wide ones alone. Not here: what a policy means (`mesh_model::policy`), and what people are told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_crd::authorization_policy::{Authored, Target, Within};
use mesh_crd::network_policy;
use mesh_model::policy::{Bindings, PolicyKey, PortMtls};
use mesh_model::{Change, ServiceKey};

use super::facts::{PodFact, matches};
use super::{Index, ObjectName, in_namespace};

/// All policies.
#[derive(Debug, Default)]
pub(super) struct Authorization {
    authored: BTreeMap<PolicyKey, Authored>,
    /// Those with a target that selects pods of one namespace.
    in_namespace: HashMap<Arc<str>, BTreeSet<PolicyKey>>,
    /// Those with a target that selects pods of all.
    in_mesh: BTreeSet<PolicyKey>,
    /// Who targets a Service.
    of_service: HashMap<ServiceKey, BTreeSet<PolicyKey>>,
    dirty: BTreeSet<PolicyKey>,
    /// Those that some workload lists, or lists no more, since they were last taken.
    rebound: BTreeSet<PolicyKey>,
}

impl Authorization {
    /// Puts a policy in the place of its predecessor; which that was.
    fn replace(&mut self, key: &PolicyKey, new: Option<Authored>) -> Option<Authored> {
        self.dirty.insert(key.clone());
        let old = self.authored.remove(key);
        for target in old.iter().flat_map(|old| &old.targets) {
            self.index(target, key, |keys, key| {
                keys.remove(key);
            });
        }
        self.in_namespace.retain(|_, keys| !keys.is_empty());
        self.of_service.retain(|_, keys| !keys.is_empty());
        for target in new.iter().flat_map(|new| &new.targets) {
            self.index(target, key, |keys, key| {
                keys.insert(key.clone());
            });
        }
        if let Some(new) = new {
            self.authored.insert(key.clone(), new);
        }
        old
    }

    fn index(
        &mut self,
        target: &Target,
        key: &PolicyKey,
        change: impl Fn(&mut BTreeSet<PolicyKey>, &PolicyKey),
    ) {
        match target {
            Target::Pods(Within::Mesh, _) => change(&mut self.in_mesh, key),
            Target::Pods(Within::Namespace(namespace), _) => {
                change(self.in_namespace.entry(namespace.as_str().into()).or_default(), key);
            }
            Target::Service(service) => {
                change(self.of_service.entry(service.clone()).or_default(), key);
                change(self.in_namespace.entry(service.namespace.clone()).or_default(), key);
            }
        }
    }
}

impl Index {
    pub(super) fn set_policy(&mut self, authored: Authored) {
        let key = authored.policy.key.clone();
        let new = authored.targets.clone();
        let old = self.authorization.replace(&key, Some(authored)).map(|old| old.targets).unwrap_or_default();
        if old != new {
            self.touch_selected(old.iter().chain(&new));
        }
    }

    pub(super) fn remove_policy(&mut self, key: &PolicyKey) {
        if let Some(old) = self.authorization.replace(key, None) {
            self.touch_selected(old.targets.iter());
        }
    }

    /// Which pods a Service selects may be different.
    pub(super) fn touch_policies_of(&mut self, service: &ObjectName) {
        let key = ServiceKey { namespace: service.0.clone(), name: service.1.clone() };
        if self.authorization.of_service.contains_key(&key) {
            self.touch_pods_of(&service.0);
        }
    }

    fn touch_selected<'a>(&mut self, targets: impl Iterator<Item = &'a Target>) {
        let namespaces: BTreeSet<Option<Arc<str>>> = targets
            .map(|target| match target {
                Target::Pods(Within::Mesh, _) => None,
                Target::Pods(Within::Namespace(namespace), _) => Some(namespace.as_str().into()),
                Target::Service(service) => Some(service.namespace.clone()),
            })
            .collect();
        if namespaces.contains(&None) {
            return self.touch_all_pods();
        }
        namespaces.into_iter().flatten().for_each(|namespace| self.touch_pods_of(&namespace));
    }

    pub(super) fn touch_all_pods(&mut self) {
        let uids: Vec<_> = self.pods.values().map(|pod| pod.uid.clone()).collect();
        self.dirty_workloads.extend(uids);
    }

    /// What a pod's workload says of policies and plaintext; nothing for the many of which nothing is to be said.
    pub(super) fn bindings(&self, pod: &PodFact) -> Option<Box<Bindings>> {
        let of_namespace = self.authorization.in_namespace.get(&pod.namespace).into_iter().flatten();
        let mut policies: Vec<PolicyKey> = of_namespace
            .chain(&self.authorization.in_mesh)
            .filter(|key| self.selects(key, pod))
            .cloned()
            .collect();
        policies.sort_unstable();
        policies.dedup();
        let overrides = self.mesh.iter().flat_map(|mesh| &mesh.mtls_overrides);
        let mtls: Vec<PortMtls> = overrides
            .filter(|one| one.is_about(&pod.namespace, &pod.labels))
            .flat_map(|one| one.ports.iter().cloned())
            .collect();
        (!policies.is_empty() || !mtls.is_empty()).then(|| Box::new(Bindings { policies, mtls }))
    }

    fn selects(&self, key: &PolicyKey, pod: &PodFact) -> bool {
        let Some(authored) = self.authorization.authored.get(key) else { return false };
        authored.targets.iter().any(|target| match target {
            Target::Pods(within, selector) => {
                let here = match within {
                    Within::Mesh => true,
                    Within::Namespace(namespace) => **namespace == *pod.namespace,
                };
                here && network_policy::matches(selector, &pod.labels)
            }
            Target::Service(service) => self.serves(service, pod),
        })
    }

    /// Whether a pod is behind a Service: by the Service's selector, or, where it has none, by name in its slices.
    pub(super) fn serves(&self, service: &ServiceKey, pod: &PodFact) -> bool {
        if service.namespace != pod.namespace {
            return false;
        }
        let name = (service.namespace.clone(), service.name.clone());
        let Some(fact) = self.services.get(&name) else { return false };
        if !fact.selector.is_empty() {
            return matches(&fact.selector, &pod.labels);
        }
        let from = (name.0.clone(), name.1.clone(), "".into());
        self.slices
            .range(from..)
            .take_while(|((namespace, owner, _), _)| *namespace == name.0 && *owner == name.1)
            .flat_map(|(_, slice)| &slice.endpoints)
            .any(|endpoint| endpoint.pod.as_ref().is_some_and(|reference| reference.name == pod.name))
    }

    /// The steps of the policies that are new, different or gone.
    pub(super) fn flush_policies(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.authorization.dirty);
        dirty
            .into_iter()
            .map(|key| match self.authorization.authored.get(&key) {
                Some(authored) => Change::Policy(authored.policy.clone()),
                None => Change::PolicyRemoved(key),
            })
            .collect()
    }

    /// Takes note of what a workload lists now and did not before, or the other way round.
    pub(super) fn note_bindings(&mut self, old: Option<&Bindings>, new: Option<&Bindings>) {
        let none = Bindings::default();
        let (old, new) = (&old.unwrap_or(&none).policies, &new.unwrap_or(&none).policies);
        if old != new {
            let changed = old
                .iter()
                .filter(|key| !new.contains(key))
                .chain(new.iter().filter(|key| !old.contains(key)));
            self.authorization.rebound.extend(changed.cloned());
        }
    }

    /// Policies that other workloads list than before.
    pub fn take_rebound(&mut self) -> BTreeSet<PolicyKey> {
        std::mem::take(&mut self.authorization.rebound)
    }

    /// Whether a namespace is there, or a pod in one of that name.
    pub fn has_namespace(&self, name: &str) -> bool {
        let name: Arc<str> = name.into();
        self.namespaces.contains_key(&name) || in_namespace(&self.pods, &name).next().is_some()
    }

    /// Whether some pod has an identity of a trust domain.
    pub fn knows_trust_domain(&self, domain: &str) -> bool {
        self.pods.values().next().is_some_and(|pod| pod.identity.trust_domain().as_str() == domain)
    }

    /// Whether a Service is there.
    pub fn has_service(&self, key: &ServiceKey) -> bool {
        self.services.contains_key(&(key.namespace.clone(), key.name.clone()))
    }

    /// A policy as its object says.
    pub fn authored(&self, key: &PolicyKey) -> Option<&Authored> {
        self.authorization.authored.get(key)
    }

    /// All policies, in the order of their names.
    pub fn all_authored(&self) -> impl Iterator<Item = &Authored> {
        self.authorization.authored.values()
    }

    /// The pods that a policy is about, wherever they run and whether or not they are in the mesh.
    pub fn targeted(&self, authored: &Authored) -> Vec<&PodFact> {
        let (key, reach) = (&authored.policy.key, &authored.policy.reach);
        let is_about = |pod: &&PodFact| {
            reach.mesh || reach.namespaces.contains(&pod.namespace) || self.selects(key, pod)
        };
        let everywhere =
            authored.targets.iter().any(|target| matches!(target, Target::Pods(Within::Mesh, _)));
        if reach.mesh || everywhere {
            return self.pods.values().filter(is_about).collect();
        }
        let mut namespaces: BTreeSet<Arc<str>> = reach.namespaces.iter().cloned().collect();
        if !authored.targets.is_empty() {
            namespaces.insert(key.namespace.clone());
        }
        let mut found = Vec::new();
        for namespace in &namespaces {
            found.extend(in_namespace(&self.pods, namespace).map(|(_, pod)| pod).filter(is_about));
        }
        found
    }
}
