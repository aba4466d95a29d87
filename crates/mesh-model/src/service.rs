//! A Service: addresses that stand for a set of endpoints.
//!
//! The controller has done the joining (selectors or EndpointSlices, named ports, readiness); an agent only looks up
//! and chooses. Only TCP ports are carried.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Uid;

mod served;
mod untouched;
mod usable;

pub use served::Served;
pub use untouched::{NotUntouched, Untouched};
pub use usable::{Candidate, Here, Question, Scope, usable};

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
    /// External IPs: the Service's at its own ports alone, and somebody else's at any other.
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of a load balancer that keeps the destination (`ipMode: VIP`); likewise.
    pub load_balancer_addresses: Vec<IpAddr>,
    /// Who may dial the load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// TCP ports of the Service. A cluster address of the Service at any other port is refused.
    pub ports: Vec<u16>,
    /// Endpoints, in a stable order.
    pub endpoints: Vec<Endpoint>,
    /// Connections of one client go to one endpoint until so many seconds after the last; 0: no affinity.
    pub affinity_seconds: u32,
    /// At the cluster addresses only endpoints of the client's own node (`internalTrafficPolicy: Local`).
    pub local_only: bool,
    /// Somebody else than kube-proxy serves its addresses (label `service.kubernetes.io/service-proxy-name`): they are left
    /// to whoever that is. Its endpoints are then all there are, ready or not.
    pub other_proxy: Option<Arc<str>>,
    /// What of it is left as it is.
    pub untouched: Vec<Untouched>,
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
    /// The node it is on; said only where it makes a difference ([`Service::local_only`]).
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
        Self {
            key,
            addresses: Vec::new(),
            external_addresses: Vec::new(),
            load_balancer_addresses: Vec::new(),
            source_ranges: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            affinity_seconds: 0,
            local_only: false,
            other_proxy: None,
            untouched: Vec::new(),
        }
    }

    /// Which endpoints count at the cluster addresses.
    pub fn internal_scope(&self) -> Scope {
        if self.local_only { Scope::Local } else { Scope::Cluster }
    }

    /// External IPs and the load balancer's addresses.
    pub fn outer_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.external_addresses.iter().chain(&self.load_balancer_addresses).copied()
    }

    /// Whether this client may dial this address: `loadBalancerSourceRanges`, which are about the load balancer's addresses
    /// alone, and of the client's family alone.
    pub fn admits(&self, address: IpAddr, client: IpAddr) -> bool {
        if !self.load_balancer_addresses.contains(&address) || self.external_addresses.contains(&address) {
            return true;
        }
        let mut ranges =
            self.source_ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4());
        let first = ranges.next();
        first.is_none_or(|first| first.contains(&client) || ranges.any(|range| range.contains(&client)))
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
