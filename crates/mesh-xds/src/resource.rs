//! What travels: a workload, a service, the mesh's settings, a node or a policy; its name, and the hash that is its version.
//!
//! The body is encoded once by the publisher and shared by every stream. Decoding is strict: a value outside its
//! range, an unknown word or a name that does not fit the body is an error that names the resource; nothing is guessed.
//! What many resources have in common (namespaces, nodes, identities) a receiver keeps once (`strings`).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use mesh_model::policy::{Mtls, Policy, PolicyKey};
use mesh_model::{Change, IdentityError, MeshSettings, NodeInfo, Service, ServiceKey, Uid, Workload, World};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto;

mod policy;
mod service;
mod settings;
mod strings;
#[cfg(test)]
mod tests;
mod workload;

pub use strings::Strings;

/// The name of the mesh's settings.
const MESH: &str = "mesh";

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A policy. The first, so that an agent that is told a great deal knows a policy before the workloads that list it.
    Policy(PolicyKey),
    /// A workload.
    Workload(Uid),
    /// A service; namespace and name.
    Service(Arc<str>, Arc<str>),
    /// The mesh's settings.
    Mesh,
    /// A node; only its own agent hears of it.
    Node(Arc<str>),
}

/// SHA-256 of type, name and body, truncated to 16 bytes. Equal versions mean equal contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version(pub [u8; 16]);

/// One thing that an agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A pod.
    Workload(Workload),
    /// A service with its endpoints.
    Service(Service),
    /// What the operator set for the whole mesh.
    Mesh(MeshSettings),
    /// A node, for its own agent.
    Node(NodeInfo),
    /// Who may talk to whom.
    Policy(Policy),
}

/// A resource as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Hash of the contents.
    pub version: Version,
    /// The encoded message.
    pub body: Bytes,
}

/// Why something received is no resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The resource's type or name is missing or malformed.
    #[error("{0:?} is not the name of a resource")]
    Name(String),
    /// The body is no message of its type.
    #[error("{0}: the body does not decode")]
    Body(Name, #[source] prost::DecodeError),
    /// A field holds what it may not.
    #[error("{name}: {field} is {value}")]
    Field {
        /// Of which resource.
        name: Name,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        value: String,
    },
    /// The identity is not of the mesh's form.
    #[error("{0}: bad identity")]
    Identity(Name, #[source] IdentityError),
    /// A version that is not 16 bytes.
    #[error("{0}: the version is not 16 bytes long")]
    Version(Name),
}

impl Resource {
    /// What it is known by.
    pub fn name(&self) -> Name {
        match self {
            Self::Workload(workload) => Name::Workload(workload.uid.clone()),
            Self::Service(service) => Name::of_service(&service.key),
            Self::Mesh(_) => Name::Mesh,
            Self::Node(node) => Name::Node(node.name.clone()),
            Self::Policy(policy) => Name::Policy(policy.key.clone()),
        }
    }

    /// The step that puts it into a world.
    pub fn into_change(self) -> Change {
        match self {
            Self::Workload(workload) => Change::Workload(workload),
            Self::Service(service) => Change::Service(service),
            Self::Mesh(settings) => Change::Mesh(settings),
            Self::Node(node) => Change::Node(node),
            Self::Policy(policy) => Change::Policy(policy),
        }
    }

    /// All that a world holds, as a client's initial cache.
    pub fn all_of(world: &World) -> Vec<Self> {
        let workloads = world.workloads().map(|workload| Self::Workload(workload.as_ref().clone()));
        let services = world.services().map(|service| Self::Service(service.as_ref().clone()));
        let mesh = world.mesh().map(|settings| Self::Mesh(settings.as_ref().clone()));
        let nodes = world.nodes().map(|node| Self::Node(node.as_ref().clone()));
        let policies = world.policies().map(|policy| Self::Policy(policy.as_ref().clone()));
        workloads.chain(services).chain(mesh).chain(nodes).chain(policies).collect()
    }

    /// All that a world holds as it travels, one after the other: no copy of the whole is made.
    pub(crate) fn each_of(world: &World) -> impl Iterator<Item = (Name, Bytes)> {
        let workloads = world.workloads().map(|workload| {
            (Name::Workload(workload.uid.clone()), workload::encode(workload).encode_to_vec().into())
        });
        let services = world
            .services()
            .map(|service| (Name::of_service(&service.key), service::encode(service).encode_to_vec().into()));
        let mesh = world.mesh().map(|mesh| (Name::Mesh, settings::encode_mesh(mesh).encode_to_vec().into()));
        let nodes = world
            .nodes()
            .map(|node| (Name::Node(node.name.clone()), settings::encode_node(node).encode_to_vec().into()));
        let policies = world
            .policies()
            .map(|policy| (Name::Policy(policy.key.clone()), policy::encode(policy).encode_to_vec().into()));
        workloads.chain(services).chain(mesh).chain(nodes).chain(policies)
    }

    /// The bytes and their hash.
    pub fn encode(&self) -> Encoded {
        let body: Bytes = match self {
            Self::Workload(workload) => workload::encode(workload).encode_to_vec().into(),
            Self::Service(service) => service::encode(service).encode_to_vec().into(),
            Self::Mesh(mesh) => settings::encode_mesh(mesh).encode_to_vec().into(),
            Self::Node(node) => settings::encode_node(node).encode_to_vec().into(),
            Self::Policy(policy) => policy::encode(policy).encode_to_vec().into(),
        };
        let version = Version::of(&self.name(), &body);
        Encoded { version, body }
    }

    /// Reads a body. The name in it must be the one it came under.
    pub fn decode(name: &Name, body: &Bytes) -> Result<Self, ResourceError> {
        let broken = |error| ResourceError::Body(name.clone(), error);
        match name {
            Name::Workload(_) => {
                let message = proto::Workload::decode(body.clone()).map_err(broken)?;
                workload::decode(name, message).map(Self::Workload)
            }
            Name::Service(..) => {
                let message = proto::Service::decode(body.clone()).map_err(broken)?;
                service::decode(name, message).map(Self::Service)
            }
            Name::Mesh => {
                let message = proto::Mesh::decode(body.clone()).map_err(broken)?;
                settings::decode_mesh(name, message).map(Self::Mesh)
            }
            Name::Node(_) => {
                let message = proto::Node::decode(body.clone()).map_err(broken)?;
                settings::decode_node(name, message).map(Self::Node)
            }
            Name::Policy(_) => {
                let message = proto::Policy::decode(body.clone()).map_err(broken)?;
                policy::decode(name, message).map(Self::Policy)
            }
        }
    }
}

impl Name {
    /// The name of a service.
    pub fn of_service(key: &ServiceKey) -> Self {
        Self::Service(key.namespace.clone(), key.name.clone())
    }

    /// The step that takes it out of a world.
    pub fn into_removal(self) -> Change {
        match self {
            Self::Workload(uid) => Change::WorkloadRemoved(uid),
            Self::Service(namespace, name) => Change::ServiceRemoved(ServiceKey { namespace, name }),
            Self::Mesh => Change::MeshRemoved,
            Self::Node(name) => Change::NodeRemoved(name),
            Self::Policy(key) => Change::PolicyRemoved(key),
        }
    }

    /// As it goes over the wire.
    pub fn encode(&self) -> proto::ResourceName {
        let (kind, name) = match self {
            Self::Workload(uid) => (proto::ResourceType::Workload, uid.as_str().to_owned()),
            Self::Service(namespace, name) => (proto::ResourceType::Service, format!("{namespace}/{name}")),
            Self::Mesh => (proto::ResourceType::Mesh, MESH.to_owned()),
            Self::Node(name) => (proto::ResourceType::Node, name.as_ref().to_owned()),
            Self::Policy(key) => (proto::ResourceType::Policy, key.to_string()),
        };
        proto::ResourceName { r#type: kind.into(), name }
    }

    /// Reads a name.
    pub fn decode(name: Option<&proto::ResourceName>) -> Result<Self, ResourceError> {
        let name = name.ok_or_else(|| ResourceError::Name(String::new()))?;
        let malformed = || ResourceError::Name(name.name.clone());
        match name.r#type() {
            proto::ResourceType::Workload if !name.name.is_empty() => {
                Ok(Self::Workload(Uid::new(&name.name)))
            }
            proto::ResourceType::Service => match name.name.split_once('/') {
                Some((namespace, rest)) if !namespace.is_empty() && !rest.is_empty() => {
                    Ok(Self::Service(namespace.into(), rest.into()))
                }
                _ => Err(malformed()),
            },
            proto::ResourceType::Mesh if name.name == MESH => Ok(Self::Mesh),
            proto::ResourceType::Node if !name.name.is_empty() => Ok(Self::Node(name.name.as_str().into())),
            proto::ResourceType::Policy => name.name.parse().map(Self::Policy).map_err(|_| malformed()),
            proto::ResourceType::Workload
            | proto::ResourceType::Mesh
            | proto::ResourceType::Node
            | proto::ResourceType::Unspecified => Err(malformed()),
        }
    }
}

impl Version {
    fn of(name: &Name, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        match name {
            // Zero bytes keep the parts apart: none can hold one.
            Name::Workload(uid) => {
                hash.update(b"w\0");
                hash.update(uid.as_str());
            }
            Name::Service(namespace, name) => {
                hash.update(b"s\0");
                hash.update(namespace.as_bytes());
                hash.update(b"\0");
                hash.update(name.as_bytes());
            }
            Name::Mesh => hash.update(b"m\0"),
            Name::Node(name) => {
                hash.update(b"n\0");
                hash.update(name.as_bytes());
            }
            Name::Policy(key) => {
                hash.update(b"p\0");
                hash.update(key.namespace.as_bytes());
                hash.update(b"\0");
                hash.update(key.name.as_bytes());
            }
        }
        hash.update(b"\0");
        hash.update(body);
        let mut version = [0; 16];
        version.copy_from_slice(&hash.finalize()[..16]);
        Self(version)
    }

    /// Of any parts, in their order.
    pub fn over<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut version = [0; 16];
        version.copy_from_slice(&hash.finalize()[..16]);
        Self(version)
    }

    /// Reads a version.
    pub fn decode(name: &Name, bytes: &[u8]) -> Result<Self, ResourceError> {
        bytes.try_into().map(Self).map_err(|_| ResourceError::Version(name.clone()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => write!(f, "workload {uid}"),
            Self::Service(namespace, name) => write!(f, "service {namespace}/{name}"),
            Self::Mesh => f.write_str("the mesh's settings"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Policy(key) => write!(f, "policy {key}"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn encode_address(address: &IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => address.octets().to_vec().into(),
        IpAddr::V6(address) => address.octets().to_vec().into(),
    }
}

fn encode_range(range: &RangeInclusive<u16>) -> proto::PortRange {
    proto::PortRange { first: (*range.start()).into(), last: (*range.end()).into() }
}

fn encode_mtls(mtls: Mtls) -> proto::Mtls {
    match mtls {
        Mtls::Permissive => proto::Mtls::Permissive,
        Mtls::Strict => proto::Mtls::Strict,
    }
}

fn encode_prefix(prefix: &IpNet) -> proto::Prefix {
    proto::Prefix { address: encode_address(&prefix.addr()), bits: prefix.prefix_len().into() }
}

fn strings(all: &[Arc<str>]) -> Vec<String> {
    all.iter().map(|one| one.as_ref().to_owned()).collect()
}

fn shared(all: &[String]) -> Vec<Arc<str>> {
    all.iter().map(|one| one.as_str().into()).collect()
}

/// Reads the fields of one resource; every complaint carries its name.
struct Reader<'a>(&'a Name);

impl Reader<'_> {
    fn error(&self, field: &'static str, value: impl Into<String>) -> ResourceError {
        ResourceError::Field { name: self.0.clone(), field, value: value.into() }
    }

    fn address(&self, field: &'static str, bytes: &Bytes) -> Result<IpAddr, ResourceError> {
        if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_ref()) {
            return Ok(IpAddr::from(octets));
        }
        match <[u8; 16]>::try_from(bytes.as_ref()) {
            Ok(octets) => Ok(IpAddr::from(octets).to_canonical()),
            Err(_) => Err(self.error(field, format!("{} bytes long", bytes.len()))),
        }
    }

    fn addresses(&self, field: &'static str, all: &[Bytes]) -> Result<Vec<IpAddr>, ResourceError> {
        all.iter().map(|bytes| self.address(field, bytes)).collect()
    }

    fn prefix(&self, field: &'static str, prefix: &proto::Prefix) -> Result<IpNet, ResourceError> {
        let address = self.address(field, &prefix.address)?;
        let bits = u8::try_from(prefix.bits).ok();
        let net = bits.and_then(|bits| IpNet::new(address, bits).ok());
        net.ok_or_else(|| self.error(field, format!("{address}/{}", prefix.bits)))
    }

    fn range(
        &self,
        field: &'static str,
        range: &proto::PortRange,
    ) -> Result<RangeInclusive<u16>, ResourceError> {
        let (first, last) = (self.port(field, range.first)?, self.port(field, range.last)?);
        match first <= last {
            true => Ok(first..=last),
            false => Err(self.error(field, format!("{first}-{last}, the wrong way round"))),
        }
    }

    fn mtls(&self, field: &'static str, word: i32) -> Result<Mtls, ResourceError> {
        match proto::Mtls::try_from(word) {
            Ok(proto::Mtls::Permissive) => Ok(Mtls::Permissive),
            Ok(proto::Mtls::Strict) => Ok(Mtls::Strict),
            Ok(proto::Mtls::Unspecified) | Err(_) => Err(self.error(field, format!("{word}, unknown"))),
        }
    }

    fn port(&self, field: &'static str, port: u32) -> Result<u16, ResourceError> {
        match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(self.error(field, port.to_string())),
        }
    }

    fn text<'t>(&self, field: &'static str, text: &'t str) -> Result<&'t str, ResourceError> {
        if text.is_empty() { Err(self.error(field, "empty")) } else { Ok(text) }
    }
}
