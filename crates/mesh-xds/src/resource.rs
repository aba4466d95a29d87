//! What travels: a workload, a service, the mesh's settings or a node; its name, and the hash that is its version.
//!
//! The body is encoded once by the publisher and shared by every stream. Decoding is strict: a value outside its
//! range, an unknown word or a name that does not fit the body is an error that names the resource; nothing is guessed.
//! What many resources have in common (namespaces, nodes, identities) a receiver keeps once (`strings`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;
use mesh_model::{
    Change, IdentityError, MeshSettings, NodeInfo, Phase, Reason, Service, ServiceKey, Tunnel, Uid, Workload,
    World,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::proto;

mod service;
mod settings;
mod strings;
#[cfg(test)]
mod tests;

pub use strings::Strings;

/// The name of the mesh's settings.
const MESH: &str = "mesh";

/// What a resource is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
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
        }
    }

    /// The step that puts it into a world.
    pub fn into_change(self) -> Change {
        match self {
            Self::Workload(workload) => Change::Workload(workload),
            Self::Service(service) => Change::Service(service),
            Self::Mesh(settings) => Change::Mesh(settings),
            Self::Node(node) => Change::Node(node),
        }
    }

    /// All that a world holds, as a client's initial cache.
    pub fn all_of(world: &World) -> Vec<Self> {
        let workloads = world.workloads().map(|workload| Self::Workload(workload.as_ref().clone()));
        let services = world.services().map(|service| Self::Service(service.as_ref().clone()));
        let mesh = world.mesh().map(|settings| Self::Mesh(settings.as_ref().clone()));
        let nodes = world.nodes().map(|node| Self::Node(node.as_ref().clone()));
        workloads.chain(services).chain(mesh).chain(nodes).collect()
    }

    /// All that a world holds as it travels, one after the other: no copy of the whole is made.
    pub(crate) fn each_of(world: &World) -> impl Iterator<Item = (Name, Bytes)> {
        let workloads = world.workloads().map(|workload| {
            (Name::Workload(workload.uid.clone()), encode_workload(workload).encode_to_vec().into())
        });
        let services = world
            .services()
            .map(|service| (Name::of_service(&service.key), service::encode(service).encode_to_vec().into()));
        let mesh = world.mesh().map(|mesh| (Name::Mesh, settings::encode_mesh(mesh).encode_to_vec().into()));
        let nodes = world
            .nodes()
            .map(|node| (Name::Node(node.name.clone()), settings::encode_node(node).encode_to_vec().into()));
        workloads.chain(services).chain(mesh).chain(nodes)
    }

    /// The bytes and their hash.
    pub fn encode(&self) -> Encoded {
        let body: Bytes = match self {
            Self::Workload(workload) => encode_workload(workload).encode_to_vec().into(),
            Self::Service(service) => service::encode(service).encode_to_vec().into(),
            Self::Mesh(mesh) => settings::encode_mesh(mesh).encode_to_vec().into(),
            Self::Node(node) => settings::encode_node(node).encode_to_vec().into(),
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
                decode_workload(name, message).map(Self::Workload)
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
        }
    }

    /// As it goes over the wire.
    pub fn encode(&self) -> proto::ResourceName {
        let (kind, name) = match self {
            Self::Workload(uid) => (proto::ResourceType::Workload, uid.as_str().to_owned()),
            Self::Service(namespace, name) => (proto::ResourceType::Service, format!("{namespace}/{name}")),
            Self::Mesh => (proto::ResourceType::Mesh, MESH.to_owned()),
            Self::Node(name) => (proto::ResourceType::Node, name.as_ref().to_owned()),
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
        }
        hash.update(b"\0");
        hash.update(body);
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

fn encode_workload(workload: &Workload) -> proto::Workload {
    proto::Workload {
        uid: workload.uid.as_str().into(),
        namespace: workload.namespace.as_ref().into(),
        name: workload.name.as_ref().into(),
        owner: workload.owner.as_ref().into(),
        node: workload.node.as_ref().into(),
        identity: workload.identity.to_string(),
        addresses: workload.addresses.iter().map(encode_address).collect(),
        enrolled: workload.enrolled,
        tunnel: match workload.tunnel {
            Tunnel::None => proto::Tunnel::None,
            Tunnel::Hbone => proto::Tunnel::Hbone,
            Tunnel::Withdrawn => proto::Tunnel::Withdrawn,
            Tunnel::Foreign => proto::Tunnel::Foreign,
        }
        .into(),
        phase: match workload.phase {
            Phase::Pending => proto::Phase::Pending,
            Phase::Running => proto::Phase::Running,
            Phase::Terminating => proto::Phase::Terminating,
            Phase::Finished => proto::Phase::Finished,
        }
        .into(),
        host_network: workload.host_network,
        left_alone: workload.left_alone.map(Reason::as_str).unwrap_or_default().into(),
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

fn decode_workload(name: &Name, message: proto::Workload) -> Result<Workload, ResourceError> {
    let read = Reader(name);
    let uid = Uid::new(read.text("uid", &message.uid)?);
    if *name != Name::Workload(uid.clone()) {
        return Err(read.error("uid", format!("{uid}, of another workload")));
    }
    let tunnel = match proto::Tunnel::try_from(message.tunnel) {
        Ok(proto::Tunnel::None) => Tunnel::None,
        Ok(proto::Tunnel::Hbone) => Tunnel::Hbone,
        Ok(proto::Tunnel::Withdrawn) => Tunnel::Withdrawn,
        Ok(proto::Tunnel::Foreign) => Tunnel::Foreign,
        Ok(proto::Tunnel::Unspecified) | Err(_) => {
            return Err(read.error("tunnel", format!("{}, unknown", message.tunnel)));
        }
    };
    let phase = match proto::Phase::try_from(message.phase) {
        Ok(proto::Phase::Pending) => Phase::Pending,
        Ok(proto::Phase::Running) => Phase::Running,
        Ok(proto::Phase::Terminating) => Phase::Terminating,
        Ok(proto::Phase::Finished) => Phase::Finished,
        Ok(proto::Phase::Unspecified) | Err(_) => {
            return Err(read.error("phase", format!("{}, unknown", message.phase)));
        }
    };
    let left_alone = match message.left_alone.as_str() {
        "" => None,
        word => Some(
            Reason::of_word(word).ok_or_else(|| read.error("left_alone", format!("{word:?}, unknown")))?,
        ),
    };
    Ok(Workload {
        uid,
        namespace: read.text("namespace", &message.namespace)?.into(),
        name: read.text("name", &message.name)?.into(),
        owner: read.text("owner", &message.owner)?.into(),
        node: message.node.as_str().into(),
        identity: message.identity.parse().map_err(|error| ResourceError::Identity(name.clone(), error))?,
        addresses: read.addresses("addresses", &message.addresses)?,
        enrolled: message.enrolled,
        tunnel,
        phase,
        host_network: message.host_network,
        left_alone,
    })
}
