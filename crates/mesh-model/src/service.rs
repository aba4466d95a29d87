//! A Service: addresses that stand for a set of endpoints.
//!
//! The controller has done the joining (selectors or EndpointSlices, named ports, readiness); an agent only looks up
//! and chooses. Only TCP ports are carried.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Uid;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Service name.
    pub name: Arc<str>,
}

/// A Service with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Which one.
    pub key: ServiceKey,
    /// Cluster addresses (one per family); empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// TCP ports of the Service. An address of the Service at any other port is refused.
    pub ports: Vec<u16>,
    /// Endpoints, in a stable order.
    pub endpoints: Vec<Endpoint>,
    /// Connections of one client go to one endpoint until so many seconds after the last; 0: no affinity.
    pub affinity_seconds: u32,
    /// Only endpoints of the client's own node (`internalTrafficPolicy: Local`).
    pub local_only: bool,
}

/// One place where a Service is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where; of one family, and only chosen for a client of that family.
    pub address: IpAddr,
    /// The pod behind it, if it is one of the mesh's.
    pub workload: Option<Uid>,
    /// False: terminating and still serving, chosen when no other endpoint is ready.
    pub ready: bool,
    /// Which of its own ports stands for which port of the Service.
    pub ports: Vec<PortMap>,
    /// The node it is on, if that is known.
    pub node: Option<Arc<str>>,
    /// Zones whose clients it is for (EndpointSlice hints); empty: everybody's.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes likewise.
    pub for_nodes: Vec<Arc<str>>,
}

/// A Service's port and the endpoint's own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMap {
    /// The Service's port.
    pub service: u16,
    /// The endpoint's port.
    pub target: u16,
}

impl ServiceKey {
    /// Names a Service.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Service {
    /// A Service with nothing to it: no address, no port, no endpoint.
    pub fn bare(key: ServiceKey) -> Self {
        let (addresses, ports, endpoints) = (Vec::new(), Vec::new(), Vec::new());
        Self { key, addresses, ports, endpoints, affinity_seconds: 0, local_only: false }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or("not of the form NAMESPACE/NAME")?;
        Ok(Self::new(namespace, name))
    }
}

impl Endpoint {
    /// A ready endpoint at an address, of no pod, with no ports and no hints.
    pub fn at(address: IpAddr) -> Self {
        let (for_zones, for_nodes, ports) = (Vec::new(), Vec::new(), Vec::new());
        Self { address, workload: None, ready: true, ports, node: None, for_zones, for_nodes }
    }

    /// The endpoint's own port for a port of the Service.
    pub fn target_port(&self, service_port: u16) -> Option<u16> {
        self.ports.iter().find(|map| map.service == service_port).map(|map| map.target)
    }
}
