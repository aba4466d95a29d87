//! Facts in, changes of the world out.
//!
//! ```text
//! Fact set / removed ─┐                        ┌─▶ Workload new, different, removed
//! capture reports ────┴▶ what may be dirty ─▶ flush
//!                                              └─▶ Service new, different, removed
//! ```
//!
//! Pure and incremental: a change marks the workloads and services that it may concern, and [`Index::flush`] makes
//! those anew and compares them with what it last gave out. So any number of changes between two flushes costs no
//! more than what they touch, and changes that cancel out give nothing.
//!
//! Invariants: what has been given out is exactly what the facts and reports say, whatever the order in which they
//! came. Not here: where facts come from, and who is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_model::policy::PolicyKey;
use mesh_model::{Change, Identity, NodeInfo, Phase, Service, ServiceKey, Tunnel, Uid, Workload};

mod authorization;
mod captures;
mod contested;
mod dump;
mod endpoints;
pub mod facts;
mod policies;
mod strict;
mod workload;

#[cfg(test)]
mod tests;

use mesh_crd::network_policy::Policy;

use authorization::Authorization;
pub use captures::{Captures, Report, ReportError, Word};
use contested::Claims;
pub use contested::Remark;
use facts::{
    CAPTURE_LABEL, Fact, Key, Kind, MeshFact, NamespaceFact, PodFact, ServiceFact, SliceFact,
    TUNNEL_ANNOTATION, matches,
};

/// Namespace and name.
type ObjectName = (Arc<str>, Arc<str>);
/// Namespace, Service and the slice's own name.
type SliceName = (Arc<str>, Arc<str>, Arc<str>);

/// All facts, and the world that was last made of them.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: HashMap<Arc<str>, NamespaceFact>,
    pods: BTreeMap<ObjectName, PodFact>,
    /// Usually one each; more is a mistake in the files, and the first by name stands.
    by_uid: HashMap<Uid, BTreeSet<ObjectName>>,
    services: BTreeMap<ObjectName, ServiceFact>,
    slices: BTreeMap<SliceName, SliceFact>,
    /// Which Service a slice belongs to, by the slice's name.
    slice_owner: HashMap<ObjectName, Arc<str>>,
    /// The handler of each RuntimeClass.
    runtime_classes: HashMap<Arc<str>, Arc<str>>,
    captures: Captures,
    claims: Claims,
    nodes: HashMap<Arc<str>, NodeInfo>,
    mesh: Option<MeshFact>,
    authorization: Authorization,
    policies: BTreeMap<ObjectName, Policy>,

    dirty_workloads: BTreeSet<Uid>,
    dirty_services: BTreeSet<ObjectName>,
    dirty_nodes: BTreeSet<Arc<str>>,
    dirty_mesh: bool,
    /// What tells which policies cut tunnels may be different.
    dirty_policies: bool,

    /// What was given out.
    workloads: HashMap<Uid, Workload>,
    published_services: HashMap<ServiceKey, Service>,
}

/// Why a node may not have a certificate for an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {identity}", why(.no_account, .node))]
pub struct NotOnNode {
    /// The node.
    pub node: String,
    /// The identity.
    pub identity: Identity,
    /// Its service account itself is gone.
    pub no_account: bool,
}

fn why(no_account: &bool, node: &str) -> String {
    match no_account {
        true => "there is no ServiceAccount (any more) for".into(),
        false => format!("no unfinished pod on node {node} runs as"),
    }
}

impl Index {
    /// An empty index that remembers what was reported before a restart.
    pub fn new(captures: Captures) -> Self {
        Self { captures, ..Self::default() }
    }

    /// A fact is new or different.
    pub fn set(&mut self, fact: Fact) {
        self.dirty_policies |= matches!(fact, Fact::Namespace(_) | Fact::Pod(_) | Fact::NetworkPolicy(_));
        match fact {
            Fact::Namespace(namespace) => {
                let old = self.namespaces.insert(namespace.name.clone(), namespace.clone());
                if old.and_then(|old| old.capture) != namespace.capture {
                    self.touch_pods_of(&namespace.name);
                }
            }
            Fact::Pod(pod) => {
                let name = (pod.namespace.clone(), pod.name.clone());
                if self.pods.get(&name) == Some(&*pod) {
                    return;
                }
                self.by_uid.entry(pod.uid.clone()).or_default().insert(name.clone());
                self.touch_services_of(&pod);
                self.dirty_workloads.insert(pod.uid.clone());
                let uid = pod.uid.clone();
                if let Some(old) = self.pods.insert(name.clone(), *pod) {
                    self.touch_services_of(&old);
                    if old.uid != uid {
                        self.forget_uid(&old.uid, &name);
                    }
                }
            }
            Fact::Service(service) => {
                let name = (service.key.namespace.clone(), service.key.name.clone());
                self.touch_policies_of(&name);
                self.dirty_services.insert(name.clone());
                self.services.insert(name, service);
            }
            Fact::Slice(slice) => {
                let name = (slice.namespace.clone(), slice.name.clone());
                self.remove_slice(&name);
                let service = (slice.namespace.clone(), slice.service.clone());
                self.touch_policies_of(&service);
                self.dirty_services.insert(service);
                self.slice_owner.insert(name, slice.service.clone());
                let key = (slice.namespace.clone(), slice.service.clone(), slice.name.clone());
                self.slices.insert(key, slice);
            }
            Fact::RuntimeClass(class) => {
                let old = self.runtime_classes.insert(class.name.clone(), class.handler.clone());
                if old.as_ref() != Some(&class.handler) {
                    self.touch_pods_under(&class.name);
                }
            }
            Fact::Node(node) => {
                self.dirty_nodes.insert(node.name.clone());
                self.nodes.insert(node.name.clone(), node);
            }
            Fact::NetworkPolicy(policy) => {
                let name = (policy.namespace.as_str().into(), policy.name.as_str().into());
                self.policies.insert(name, *policy);
            }
            Fact::Mesh(mesh) => self.set_mesh(Some(*mesh)),
            Fact::Policy(authored) => self.set_policy(*authored),
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, key: &Key) {
        let name = (key.namespace.clone(), key.name.clone());
        self.dirty_policies |= matches!(key.kind, Kind::Namespace | Kind::Pod | Kind::NetworkPolicy);
        match key.kind {
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
                self.touch_pods_of(&key.name);
            }
            Kind::Pod => {
                if let Some(old) = self.pods.remove(&name) {
                    self.touch_services_of(&old);
                    self.forget_uid(&old.uid, &name);
                }
            }
            Kind::Service => {
                self.services.remove(&name);
                self.touch_policies_of(&name);
                self.dirty_services.insert(name);
            }
            Kind::EndpointSlice => self.remove_slice(&name),
            Kind::RuntimeClass => {
                self.runtime_classes.remove(&key.name);
                self.touch_pods_under(&key.name);
            }
            Kind::Node => {
                self.nodes.remove(&key.name);
                self.dirty_nodes.insert(key.name.clone());
            }
            Kind::NetworkPolicy => drop(self.policies.remove(&name)),
            Kind::MeshConfig => self.set_mesh(None),
            Kind::AuthorizationPolicy => {
                self.remove_policy(&PolicyKey { namespace: key.namespace.clone(), name: key.name.clone() });
            }
        }
    }

    fn set_mesh(&mut self, mesh: Option<MeshFact>) {
        let overrides = |mesh: &Option<MeshFact>| {
            mesh.as_ref().map(|mesh| mesh.mtls_overrides.clone()).unwrap_or_default()
        };
        if overrides(&self.mesh) != overrides(&mesh) {
            self.touch_all_pods();
        }
        self.dirty_mesh = true;
        self.mesh = mesh;
    }

    fn remove_slice(&mut self, name: &ObjectName) {
        let Some(service) = self.slice_owner.remove(name) else { return };
        let owner = (name.0.clone(), service.clone());
        self.touch_policies_of(&owner);
        self.dirty_services.insert(owner);
        self.slices.remove(&(name.0.clone(), service, name.1.clone()));
    }

    fn forget_uid(&mut self, uid: &Uid, name: &ObjectName) {
        if let Some(claimants) = self.by_uid.get_mut(uid) {
            claimants.remove(name);
            if claimants.is_empty() {
                self.by_uid.remove(uid);
            }
        }
        self.dirty_workloads.insert(uid.clone());
    }

    fn touch_pods_of(&mut self, namespace: &Arc<str>) {
        let uids: Vec<_> = in_namespace(&self.pods, namespace).map(|(_, pod)| pod.uid.clone()).collect();
        self.dirty_workloads.extend(uids);
    }

    fn touch_pods_under(&mut self, class: &Arc<str>) {
        let under = |pod: &&PodFact| pod.runtime_class.as_ref() == Some(class);
        let uids: Vec<_> = self.pods.values().filter(under).map(|pod| pod.uid.clone()).collect();
        self.dirty_workloads.extend(uids);
    }

    fn touch_services_of(&mut self, pod: &PodFact) {
        for (name, service) in in_namespace(&self.services, &pod.namespace) {
            if !service.selector.is_empty() && matches(&service.selector, &pod.labels) {
                self.dirty_services.insert(name.clone());
            }
        }
        // A slice may speak of pods of its own namespace only; those that name this one.
        for ((namespace, service, _), slice) in slices_in_namespace(&self.slices, &pod.namespace) {
            let names_it = |endpoint: &facts::SliceEndpoint| {
                endpoint.pod.as_ref().is_some_and(|reference| reference.name == pod.name)
            };
            if slice.endpoints.iter().any(names_it) {
                self.dirty_services.insert((namespace.clone(), service.clone()));
            }
        }
    }

    /// An agent says what became of a pod of its node. Whether that is news.
    pub fn report(&mut self, node: &str, uid: &Uid, report: Report) -> Result<bool, ReportError> {
        let scheduled = self.pod_of(uid).map(|pod| pod.node.clone());
        let news = self.captures.report(node, uid, report, scheduled.as_deref())?;
        if news {
            self.dirty_workloads.insert(uid.clone());
        }
        Ok(news)
    }

    /// What agents reported, to be kept over a restart.
    pub fn captures(&self) -> &Captures {
        &self.captures
    }

    /// The facts are whole for the first time: words kept over a restart whose pods are gone begin to age.
    pub fn loaded(&mut self) {
        let workloads = &self.workloads;
        self.captures.age_all(|uid| workloads.contains_key(uid));
    }

    /// Brings what is given out up to date; the steps there.
    pub fn flush(&mut self) -> Vec<Change> {
        let mut changes = self.flush_policies();
        for uid in std::mem::take(&mut self.dirty_workloads) {
            match self.make_workload(&uid) {
                Some(new) => {
                    self.captures.seen(&uid);
                    let old = self.workloads.get(&uid);
                    if old != Some(&new) {
                        self.claims.change(old, Some(&new));
                        let before = old.and_then(|old| old.bindings.clone());
                        self.note_bindings(before.as_deref(), new.bindings.as_deref());
                        self.workloads.insert(uid, new.clone());
                        changes.push(Change::Workload(new));
                    }
                }
                None => {
                    if let Some(old) = self.workloads.remove(&uid) {
                        self.claims.change(Some(&old), None);
                        self.captures.age(&uid);
                        changes.push(Change::WorkloadRemoved(uid));
                    }
                }
            }
        }
        for name in std::mem::take(&mut self.dirty_services) {
            let key = ServiceKey { namespace: name.0.clone(), name: name.1.clone() };
            match self.make_service(&name) {
                Some(new) => {
                    if self.published_services.get(&key) != Some(&new) {
                        self.published_services.insert(key, new.clone());
                        changes.push(Change::Service(new));
                    }
                }
                None => {
                    if self.published_services.remove(&key).is_some() {
                        changes.push(Change::ServiceRemoved(key));
                    }
                }
            }
        }
        // Who publishes leaves out what is the same as before.
        for name in std::mem::take(&mut self.dirty_nodes) {
            changes.push(match self.nodes.get(&name) {
                Some(node) => Change::Node(node.clone()),
                None => Change::NodeRemoved(name),
            });
        }
        if std::mem::take(&mut self.dirty_mesh) {
            let settings = self.mesh.as_ref().map(|mesh| mesh.settings.clone());
            changes.push(settings.map_or(Change::MeshRemoved, Change::Mesh));
        }
        changes
    }

    /// What people are to be told of the changes that were flushed last.
    pub fn remarks(&mut self) -> Vec<Remark> {
        let Self { claims, workloads, .. } = self;
        claims.remarks(|uid| name_of(workloads, uid))
    }

    /// The same of all addresses that are contested now, told before or not.
    pub fn contested(&self) -> Vec<Remark> {
        self.claims.standing(|uid| name_of(&self.workloads, uid))
    }

    /// Labelled pods that have an address and were never reported captured, with their nodes.
    pub fn never_captured(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values().filter(|workload| {
            let scheduled = !workload.node.is_empty() && !workload.owned_addresses().is_empty();
            workload.enrolled && workload.tunnel == Tunnel::None && scheduled
        })
    }

    /// Whether a pod on the node runs as the identity.
    pub fn may_have(&self, node: &str, identity: &Identity) -> Result<(), NotOnNode> {
        let namespace: Arc<str> = identity.namespace().into();
        let runs = |pod: &PodFact| {
            !node.is_empty()
                && *pod.node == *node
                && pod.phase != Phase::Finished
                && pod.identity == *identity
        };
        match in_namespace(&self.pods, &namespace).any(|(_, pod)| runs(pod)) {
            true => Ok(()),
            false => Err(NotOnNode { node: node.into(), identity: identity.clone(), no_account: false }),
        }
    }

    /// A workload as it was last given out.
    pub fn workload(&self, uid: &Uid) -> Option<&Workload> {
        self.workloads.get(uid)
    }

    /// How many workloads were given out.
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// How many services were given out.
    pub fn service_count(&self) -> usize {
        self.published_services.len()
    }

    /// Mistakes that are in no single file.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self
            .by_uid
            .iter()
            .filter(|(_, claimants)| claimants.len() > 1)
            .map(|(uid, claimants)| {
                let names: Vec<_> = claimants.iter().map(|(ns, name)| format!("{ns}/{name}")).collect();
                format!("pods {} have the same UID {uid}: only the first counts", names.join(", "))
            })
            .collect();
        let mut claims: BTreeMap<_, Vec<&ServiceFact>> = BTreeMap::new();
        for service in self.services.values() {
            for address in &service.addresses {
                claims.entry(address).or_default().push(service);
            }
        }
        for (address, services) in claims.into_iter().filter(|(_, services)| services.len() > 1) {
            let names: Vec<_> = services.iter().map(|service| service.key.to_string()).collect();
            problems.push(format!("services {} have the same address {address}", names.join(", ")));
        }
        problems.extend(self.pods.values().filter(|pod| self.has_two_agents(pod)).map(|pod| {
            format!(
                "pod {}/{} has the label {CAPTURE_LABEL}: enabled and the annotation {TUNNEL_ANNOTATION}: hbone, but \
                 only one agent can serve a pod: it is captured by Weft; take one of the two away",
                pod.namespace, pod.name
            )
        }));
        problems.sort_unstable();
        problems
    }

    fn pod_of(&self, uid: &Uid) -> Option<&PodFact> {
        self.pods.get(self.by_uid.get(uid)?.first()?)
    }
}

/// How people know a pod.
fn name_of(workloads: &HashMap<Uid, Workload>, uid: &Uid) -> String {
    match workloads.get(uid) {
        Some(workload) => format!("{}/{}", workload.namespace, workload.name),
        None => uid.to_string(),
    }
}

fn in_namespace<'a, T>(
    all: &'a BTreeMap<ObjectName, T>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = (&'a ObjectName, &'a T)> {
    let namespace = namespace.clone();
    all.range((namespace.clone(), "".into())..).take_while(move |((of, _), _)| *of == namespace)
}

fn slices_in_namespace<'a>(
    all: &'a BTreeMap<SliceName, SliceFact>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = (&'a SliceName, &'a SliceFact)> {
    let namespace = namespace.clone();
    all.range((namespace.clone(), "".into(), "".into())..).take_while(move |((of, ..), _)| *of == namespace)
}
