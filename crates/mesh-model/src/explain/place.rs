//! What people call a source or a destination, and which object that is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::{Served, Workload, World};

/// As it was written: an address, `NAMESPACE/NAME`, or with a kind: `pod/NAMESPACE/NAME`, `workload/…`, `service/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(IpAddr),
    /// Something by name.
    Named {
        /// `pod`, `workload` or `service`; none: whichever there is. Where a pod and a Service have one name it is the pod that
        /// dials, and the Service that is dialled, if it has the port.
        kind: Option<&'static str>,
        /// Kubernetes namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Who dials.
#[derive(Clone, Debug)]
pub struct Source {
    /// The pod, if it is one of the mesh's knowledge.
    pub workload: Option<Arc<Workload>>,
    /// From where; of a pod one of its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Who is dialled.
#[derive(Clone, Debug)]
pub struct Target {
    /// One for each family that there is.
    pub addresses: Vec<SocketAddr>,
}

/// Nothing has this name, or nothing that can be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchPlace {
    /// It is none of the forms.
    #[error(
        "{0:?} is no address and no name: write 10.0.0.1, NAMESPACE/POD, pod/NAMESPACE/NAME, workload/NAMESPACE/NAME or service/NAMESPACE/NAME"
    )]
    Form(String),
    /// No port.
    #[error("{0:?} has no port: write {0}:80 (IPv6: [fd00::1]:80)")]
    Port(String),
    /// Nobody is called so.
    #[error("there is no {0} in the world that this agent knows")]
    Unknown(String),
    /// It owns no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// A Service opens no connections.
    #[error("{0} is a Service: name a pod or a workload as the source")]
    ServiceAsSource(String),
}

impl std::str::FromStr for Place {
    type Err = NoSuchPlace;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let form = || NoSuchPlace::Form(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [namespace, name] => (None, namespace, name),
            ["pod" | "pods" | "po", namespace, name] => (Some("pod"), namespace, name),
            [
                "workload" | "workloads" | "deployment" | "deploy" | "statefulset" | "sts" | "daemonset"
                | "ds",
                namespace,
                name,
            ] => (Some("workload"), namespace, name),
            ["service" | "services" | "svc", namespace, name] => (Some("service"), namespace, name),
            _ => return Err(form()),
        };
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        if !is_name(namespace) || !is_name(name) {
            return Err(form());
        }
        Ok(Self::Named { kind, namespace: (*namespace).to_owned(), name: (*name).to_owned() })
    }
}

impl Place {
    /// Splits the port from what is before it.
    pub fn with_port(text: &str) -> Result<(Self, u16), NoSuchPlace> {
        let missing = || NoSuchPlace::Port(text.to_owned());
        // fd00::1 is an address, not an address and a port.
        if text.parse::<IpAddr>().is_ok() {
            return Err(missing());
        }
        let (place, port) = text.rsplit_once(':').ok_or_else(missing)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(missing)?;
        Ok((place.parse()?, port))
    }

    /// Who dials.
    pub fn source(&self, world: &World) -> Result<Source, NoSuchPlace> {
        match self {
            Self::Address(address) => {
                Ok(Source { workload: world.workload_at(*address).cloned(), addresses: vec![*address] })
            }
            Self::Named { .. } => match self.find(world, None)? {
                Found::Workload(workload) if workload.addresses.is_empty() => {
                    Err(NoSuchPlace::NoAddress(self.to_string()))
                }
                Found::Workload(workload) => {
                    Ok(Source { addresses: workload.addresses.clone(), workload: Some(workload) })
                }
                Found::Service(_) => Err(NoSuchPlace::ServiceAsSource(self.to_string())),
            },
        }
    }

    /// Who is dialled.
    pub fn target(&self, world: &World, port: u16) -> Result<Target, NoSuchPlace> {
        let addresses = match self {
            Self::Address(address) => vec![*address],
            Self::Named { .. } => match self.find(world, Some(port))? {
                Found::Workload(workload) => workload.addresses.clone(),
                Found::Service(served) => served.service().addresses.clone(),
            },
        };
        if addresses.is_empty() {
            return Err(NoSuchPlace::NoAddress(self.to_string()));
        }
        Ok(Target { addresses: addresses.into_iter().map(|one| SocketAddr::new(one, port)).collect() })
    }

    /// What has the name. `port`: the one that is dialled; none where it dials.
    fn find(&self, world: &World, port: Option<u16>) -> Result<Found, NoSuchPlace> {
        let Self::Named { kind, namespace, name } = self else {
            return Err(NoSuchPlace::Unknown(self.to_string()));
        };
        let asked = |which: &str| kind.is_none_or(|kind| kind == which);
        let of_namespace = || world.workloads().filter(|one| *one.namespace == **namespace);
        let pod = of_namespace().find(|one| *one.name == **name).filter(|_| asked("pod"));
        // Any replica will do: they are judged alike but for their addresses. One that is reached is the better example.
        let replica = of_namespace()
            .filter(|one| *one.owner == **name && asked("workload"))
            .min_by_key(|one| (one.addresses.is_empty(), !one.tunnel.is_hbone(), one.name.clone()));
        let service = world.service(&crate::ServiceKey::new(namespace, name)).filter(|_| asked("service"));
        match (pod.or(replica), service) {
            (Some(workload), None) => Ok(Found::Workload(workload.clone())),
            (None, Some(served)) => Ok(Found::Service(served.clone())),
            (None, None) => Err(NoSuchPlace::Unknown(self.to_string())),
            (Some(workload), Some(served)) => {
                let service = served.service();
                let is_dialled = port.is_some_and(|port| service.ports.contains(&port));
                match is_dialled && !service.addresses.is_empty() {
                    true => Ok(Found::Service(served.clone())),
                    false => Ok(Found::Workload(workload.clone())),
                }
            }
        }
    }
}

enum Found {
    Workload(Arc<Workload>),
    Service(Arc<Served>),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Named { kind: None, namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Named { kind: Some(kind), namespace, name } => write!(f, "{kind}/{namespace}/{name}"),
        }
    }
}
