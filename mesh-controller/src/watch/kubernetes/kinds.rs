//! The kinds that are watched: which fact each gives, and what else is noted of it.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Resource;
use kube::core::{ApiResource, ObjectMeta};
use mesh_crd::{AuthorizationPolicy, MeshConfig, NodeState};
use mesh_model::policy::PolicyKey;
use serde::de::DeserializeOwned;

use super::seen::Seen;
use crate::index::facts::{
    self, Fact, FactError, NamespaceFact, PodFact, Reading, RuntimeClassFact, ServiceFact, SliceFact,
};
use crate::reconcile::Board;

/// A kind that is watched.
pub(super) trait Watched: Resource<DynamicType = ()> + DeserializeOwned {
    /// As objects write it.
    const NAME: &'static str;

    /// The fact that it gives, if it gives one.
    fn fact(&self, reading: &Reading) -> Result<Option<Fact>, FactError>;

    /// What else is noted of it: what `reconcile` looks at. Before the fact, and even where there is an error.
    fn note(&self, _reading: &Reading, _board: &Board) {}

    /// It cannot even be read.
    fn note_broken(_meta: &ObjectMeta, _error: &str, _board: &Board) {}

    /// It is gone.
    fn forget(_namespace: &str, _name: &str, _board: &Board) {}
}

/// The same as a value.
#[derive(Debug)]
pub(super) struct Kind {
    /// As objects write it.
    pub(super) name: &'static str,
    pub(super) resource: ApiResource,
    /// Reads an object, notes what there is to note, and gives its fact.
    pub(super) learn: fn(Seen, &Reading, &Board) -> Result<Option<Fact>, String>,
    /// An object is gone: namespace and name.
    pub(super) forget: fn(&str, &str, &Board),
}

impl Kind {
    pub(super) fn of<K: Watched>() -> Self {
        Self { name: K::NAME, resource: ApiResource::erase::<K>(&()), learn: learn::<K>, forget: K::forget }
    }

    /// `pods`, `endpointslices.discovery.k8s.io`: as RBAC and people write it.
    pub(super) fn in_rbac(&self) -> String {
        let ApiResource { plural, group, .. } = &self.resource;
        if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
    }
}

fn learn<K: Watched>(seen: Seen, reading: &Reading, board: &Board) -> Result<Option<Fact>, String> {
    match serde_json::from_value::<K>(seen.value) {
        Ok(object) => {
            object.note(reading, board);
            object.fact(reading).map_err(|error| crate::chain(&error))
        }
        Err(error) => {
            let error = error.to_string();
            K::note_broken(&seen.meta, &error, board);
            Err(error)
        }
    }
}

impl Watched for Namespace {
    const NAME: &'static str = "Namespace";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        NamespaceFact::new(self).map(Fact::Namespace).map(Some)
    }
}

impl Watched for Pod {
    const NAME: &'static str = "Pod";

    fn fact(&self, reading: &Reading) -> Result<Option<Fact>, FactError> {
        PodFact::new(self, &reading.trust_domain).map(|pod| Some(Fact::Pod(Box::new(pod))))
    }
}

impl Watched for Service {
    const NAME: &'static str = "Service";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        ServiceFact::new(self).map(|service| service.map(Fact::Service))
    }
}

impl Watched for EndpointSlice {
    const NAME: &'static str = "EndpointSlice";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        SliceFact::new(self).map(|slice| slice.map(Fact::Slice))
    }
}

impl Watched for Node {
    const NAME: &'static str = "Node";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        facts::node(self).map(Fact::Node).map(Some)
    }

    fn note(&self, _: &Reading, board: &Board) {
        board.node(self.metadata.name.as_deref().unwrap_or_default(), true);
    }

    fn forget(_: &str, name: &str, board: &Board) {
        board.node(name, false);
    }
}

impl Watched for ServiceAccount {
    const NAME: &'static str = "ServiceAccount";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        Ok(None)
    }

    fn note(&self, _: &Reading, board: &Board) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        board.account(&text(&self.metadata.namespace), &text(&self.metadata.name), true);
    }

    fn forget(namespace: &str, name: &str, board: &Board) {
        board.account(namespace, name, false);
    }
}

impl Watched for RuntimeClass {
    const NAME: &'static str = "RuntimeClass";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        RuntimeClassFact::new(self).map(Fact::RuntimeClass).map(Some)
    }
}

impl Watched for NetworkPolicy {
    const NAME: &'static str = "NetworkPolicy";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        facts::network_policy(self.clone()).map(|policy| Some(Fact::NetworkPolicy(Box::new(policy))))
    }
}

impl Watched for MeshConfig {
    const NAME: &'static str = "MeshConfig";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        facts::mesh(self).map(|mesh| Some(Fact::Mesh(Box::new(mesh))))
    }

    fn note(&self, _: &Reading, board: &Board) {
        board.mesh_config(self);
    }

    fn note_broken(meta: &ObjectMeta, error: &str, board: &Board) {
        board.broken_mesh_config(meta.name.as_deref().unwrap_or_default(), meta.generation, error);
    }

    fn forget(_: &str, name: &str, board: &Board) {
        board.no_mesh_config(name);
    }
}

impl Watched for AuthorizationPolicy {
    const NAME: &'static str = "AuthorizationPolicy";

    fn fact(&self, reading: &Reading) -> Result<Option<Fact>, FactError> {
        facts::policy(self, reading).map(|authored| Some(Fact::Policy(Box::new(authored))))
    }

    fn note(&self, reading: &Reading, board: &Board) {
        board.policy(self, reading);
    }

    fn note_broken(meta: &ObjectMeta, error: &str, board: &Board) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let key = PolicyKey::new(&text(&meta.namespace), &text(&meta.name));
        board.broken_policy(key, meta.generation, error);
    }

    fn forget(namespace: &str, name: &str, board: &Board) {
        board.no_policy(&PolicyKey::new(namespace, name));
    }
}

impl Watched for NodeState {
    const NAME: &'static str = "NodeState";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        Ok(None)
    }

    fn note(&self, _: &Reading, board: &Board) {
        board.node_state(self);
    }

    fn forget(_: &str, name: &str, board: &Board) {
        board.no_node_state(name);
    }
}

impl Watched for Lease {
    const NAME: &'static str = "Lease";

    fn fact(&self, _: &Reading) -> Result<Option<Fact>, FactError> {
        Ok(None)
    }

    fn note(&self, _: &Reading, board: &Board) {
        board.lease(self);
    }

    fn forget(_: &str, name: &str, board: &Board) {
        board.no_lease(name);
    }
}
