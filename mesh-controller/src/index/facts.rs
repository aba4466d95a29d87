//! What the index needs to know of each object, and nothing more.
//!
//! ```text
//! Kubernetes-shaped object ── Fact::try_from ──▶ NamespaceFact | PodFact | ServiceFact | SliceFact ──▶ Index
//! ```
//!
//! Read strictly and once: what is behind this edge is checked (identities are names, addresses are addresses, ports
//! are ports), so the index has no error to report. Kinds that say nothing about the mesh (Node, ServiceAccount) are
//! read for their form and give no fact.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_crd::authorization_policy::{Authored, PolicyError};
use mesh_crd::mesh_config::{MeshConfigError, MtlsOverride};
use mesh_crd::network_policy::Policy;
use mesh_crd::{AuthorizationPolicy, MeshConfig};
use mesh_model::{IdentityError, MeshSettings, NodeInfo, TrustDomain};

mod left_alone;
mod pod;
mod service;
mod slice;

#[cfg(test)]
mod tests;

pub(super) use left_alone::is_sandbox;
pub use pod::PodFact;
pub use service::{ServiceFact, ServicePort, Target};
pub use slice::{EndpointState, PodReference, SliceEndpoint, SliceFact, SlicePort};

/// The label, on a Namespace or a Pod, that wants a pod in the mesh.
pub use mesh_crd::CAPTURE_LABEL;
/// The annotation of a pod that another mesh's agent serves.
pub const TUNNEL_ANNOTATION: &str = "weft.dev/tunnel";

/// A checked fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// Of a Namespace.
    Namespace(NamespaceFact),
    /// Of a Pod.
    Pod(Box<PodFact>),
    /// Of a Service.
    Service(ServiceFact),
    /// Of an EndpointSlice.
    Slice(SliceFact),
    /// Of a RuntimeClass.
    RuntimeClass(RuntimeClassFact),
    /// Of a Node.
    Node(NodeInfo),
    /// Of a MeshConfig.
    Mesh(Box<MeshFact>),
    /// Of an AuthorizationPolicy.
    Policy(Box<Authored>),
    /// Of a NetworkPolicy.
    NetworkPolicy(Box<Policy>),
}

/// The kinds that give facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespace.
    Namespace,
    /// Pod.
    Pod,
    /// Service.
    Service,
    /// EndpointSlice.
    EndpointSlice,
    /// RuntimeClass.
    RuntimeClass,
    /// Node.
    Node,
    /// MeshConfig.
    MeshConfig,
    /// NetworkPolicy.
    NetworkPolicy,
    /// AuthorizationPolicy.
    AuthorizationPolicy,
}

/// What an object is known by. A Namespace and a RuntimeClass have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFact {
    /// Its name.
    pub name: Arc<str>,
    /// What its label says; `None` without one.
    pub capture: Option<bool>,
    /// All its labels: NetworkPolicies select by them.
    pub labels: BTreeMap<String, String>,
}

/// A MeshConfig: what every agent is told, and what single workloads' resources say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshFact {
    /// For every agent.
    pub settings: MeshSettings,
    /// Where something else holds than `settings.mtls`, in their order.
    pub mtls_overrides: Vec<MtlsOverride>,
}

/// What an object is read against.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Whose identities pods have.
    pub trust_domain: TrustDomain,
    /// Weft's own namespace: its policies are about the whole mesh.
    pub release_namespace: String,
}

/// A RuntimeClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeClassFact {
    /// Its name, which is what pods say.
    pub name: Arc<str>,
    /// What the container runtime calls it.
    pub handler: Arc<str>,
}

/// Why an object gives no fact. The object is named by whoever reads the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// No name.
    #[error("metadata.name is missing")]
    Unnamed,
    /// A pod without a UID cannot be found on its node.
    #[error("metadata.uid is missing: a pod is found on its node by its UID, give it one")]
    NoUid,
    /// A field holds what it may not.
    #[error("{field} is {value:?}: {wanted}")]
    Field {
        /// Which field.
        field: String,
        /// What it holds.
        value: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Namespace and service account make no identity.
    #[error("the pod's identity is malformed")]
    Identity(#[source] IdentityError),
    /// A MeshConfig that cannot be in force.
    #[error("the configuration cannot be in force")]
    Mesh(#[source] MeshConfigError),
    /// A policy that cannot be in force.
    #[error("the policy cannot be in force")]
    Policy(#[source] PolicyError),
}

impl Fact {
    /// What it is known by.
    pub fn key(&self) -> Key {
        let (kind, namespace, name) = match self {
            Self::Namespace(fact) => (Kind::Namespace, "".into(), fact.name.clone()),
            Self::Pod(fact) => (Kind::Pod, fact.namespace.clone(), fact.name.clone()),
            Self::Service(fact) => (Kind::Service, fact.key.namespace.clone(), fact.key.name.clone()),
            Self::Slice(fact) => (Kind::EndpointSlice, fact.namespace.clone(), fact.name.clone()),
            Self::RuntimeClass(fact) => (Kind::RuntimeClass, "".into(), fact.name.clone()),
            Self::Node(fact) => (Kind::Node, "".into(), fact.name.clone()),
            Self::NetworkPolicy(policy) => {
                (Kind::NetworkPolicy, policy.namespace.as_str().into(), policy.name.as_str().into())
            }
            Self::Mesh(_) => (Kind::MeshConfig, "".into(), mesh_crd::MESH_CONFIG.into()),
            Self::Policy(authored) => {
                let key = &authored.policy.key;
                (Kind::AuthorizationPolicy, key.namespace.clone(), key.name.clone())
            }
        };
        Key { kind, namespace, name }
    }
}

impl NamespaceFact {
    /// Reads a Namespace.
    pub fn new(namespace: &Namespace) -> Result<Self, FactError> {
        let meta = &namespace.metadata;
        let labels = meta.labels.clone().unwrap_or_default();
        Ok(Self { name: name(meta)?, capture: capture(meta)?, labels })
    }
}

impl RuntimeClassFact {
    /// Reads a RuntimeClass.
    pub fn new(class: &RuntimeClass) -> Result<Self, FactError> {
        Ok(Self { name: name(&class.metadata)?, handler: class.handler.as_str().into() })
    }
}

/// The well-known label of a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reads a Node.
pub fn node(node: &Node) -> Result<NodeInfo, FactError> {
    let meta = &node.metadata;
    let zone = meta.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    let status = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    // Host names are among them, too.
    let addresses = status.into_iter().flatten().filter_map(|entry| entry.address.parse::<IpAddr>().ok());
    Ok(NodeInfo {
        name: name(meta)?,
        zone: zone.map(|zone| zone.as_str().into()),
        addresses: addresses.map(|address| address.to_canonical()).collect(),
    })
}

/// Reads a NetworkPolicy.
pub fn network_policy(policy: NetworkPolicy) -> Result<Policy, FactError> {
    let meta = &policy.metadata;
    let (namespace, name) = (namespace(meta)?.as_ref().into(), name(meta)?.as_ref().into());
    Ok(Policy { namespace, name, spec: policy.spec.unwrap_or_default() })
}

/// Reads a MeshConfig.
pub fn mesh(config: &MeshConfig) -> Result<MeshFact, FactError> {
    let settings = config.settings().map_err(FactError::Mesh)?;
    Ok(MeshFact { settings, mtls_overrides: config.mtls_overrides().map_err(FactError::Mesh)? })
}

/// Reads an AuthorizationPolicy.
pub fn policy(policy: &AuthorizationPolicy, reading: &Reading) -> Result<Authored, FactError> {
    policy.authored(&reading.trust_domain, &reading.release_namespace).map_err(FactError::Policy)
}

impl Kind {
    /// As it is written in an object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::RuntimeClass => "RuntimeClass",
            Self::Node => "Node",
            Self::MeshConfig => "MeshConfig",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str();
        match self.namespace.is_empty() {
            true => write!(f, "{kind} {}", self.name),
            false => write!(f, "{kind} {}/{}", self.namespace, self.name),
        }
    }
}

/// A field that holds what it may not.
fn bad(field: impl Into<String>, value: impl Into<String>, wanted: &'static str) -> FactError {
    FactError::Field { field: field.into(), value: value.into(), wanted }
}

fn name(meta: &ObjectMeta) -> Result<Arc<str>, FactError> {
    match meta.name.as_deref() {
        None | Some("") => Err(FactError::Unnamed),
        Some(name) => kubernetes_name("metadata.name", name),
    }
}

fn namespace(meta: &ObjectMeta) -> Result<Arc<str>, FactError> {
    match meta.namespace.as_deref() {
        None | Some("") => Ok("default".into()),
        Some(namespace) => kubernetes_name("metadata.namespace", namespace),
    }
}

/// RFC 1123 subdomain. Names end up in log lines, metric labels and file names.
fn kubernetes_name(field: &'static str, name: &str) -> Result<Arc<str>, FactError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    if name.len() <= 253 && bytes.iter().copied().all(inner) && edge(bytes.first()) && edge(bytes.last()) {
        return Ok(name.into());
    }
    Err(bad(field, name, "a name is lower-case letters, digits, '-' and '.', at most 253 of them (RFC 1123)"))
}

/// What the capture label says. A word that is neither is an error: guessing "no" would be plaintext in silence.
fn capture(meta: &ObjectMeta) -> Result<Option<bool>, FactError> {
    match meta.labels.as_ref().and_then(|labels| labels.get(CAPTURE_LABEL)).map(String::as_str) {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(bad(format!("label {CAPTURE_LABEL}"), other, "use \"enabled\" or \"disabled\"")),
    }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, FactError> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| bad(field, text, "not an IP address"))
}

fn port(field: &'static str, number: i32) -> Result<u16, FactError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(bad(field, number.to_string(), "a port is from 1 to 65535")),
    }
}

/// Kubernetes' default is TCP.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Whether labels carry all of a selector's.
pub(super) fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
