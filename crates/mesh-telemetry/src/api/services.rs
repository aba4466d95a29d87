//! Rows of `/v1/services`.

use std::net::IpAddr;

use mesh_model::{Endpoint, Service, Uid};
use serde::{Deserialize, Serialize};

/// A Service as the agent was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service name.
    pub name: String,
    /// Cluster addresses; empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// External IPs.
    #[serde(default)]
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of a load balancer that keeps the destination.
    #[serde(default)]
    pub load_balancer_addresses: Vec<IpAddr>,
    /// Who may dial the load balancer's addresses; empty: everybody.
    #[serde(default)]
    pub source_ranges: Vec<String>,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// How long after its last connection a client is sent to the same endpoint; 0: not at all.
    #[serde(default)]
    pub affinity_seconds: u32,
    /// Only endpoints of the client's own node.
    #[serde(default)]
    pub local_only: bool,
    /// Where it is served.
    pub endpoints: Vec<EndpointRow>,
    /// The proxy that all of it is left to; `null`: none.
    #[serde(default)]
    pub other_proxy: Option<String>,
    /// What of it is left to kube-proxy or a load balancer: `udp/PORT`, `sctp/PORT`, `node-port/PORT`, `proxied/ADDRESS`,
    /// `unserved/ADDRESS`.
    #[serde(default)]
    pub untouched: Vec<String>,
}

/// One place where a Service is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Where.
    pub address: IpAddr,
    /// Which of its own ports stands for which port of the Service.
    pub ports: Vec<PortRow>,
    /// The pod behind it; `null` where it is none of the mesh's.
    pub workload: Option<Uid>,
    /// Ready; otherwise it is terminating and still serves, and is chosen when no other endpoint is ready.
    pub ready: bool,
    /// Its node, where that makes a difference.
    #[serde(default)]
    pub node: Option<String>,
    /// Zones whose clients it is for; empty: everybody's.
    #[serde(default)]
    pub for_zones: Vec<String>,
    /// Nodes likewise.
    #[serde(default)]
    pub for_nodes: Vec<String>,
}

/// A Service's port and the endpoint's own for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The Service's.
    pub service: u16,
    /// The endpoint's.
    pub target: u16,
}

impl From<&Service> for ServiceRow {
    fn from(service: &Service) -> Self {
        Self {
            namespace: service.key.namespace.to_string(),
            name: service.key.name.to_string(),
            addresses: service.addresses.clone(),
            external_addresses: service.external_addresses.clone(),
            load_balancer_addresses: service.load_balancer_addresses.clone(),
            source_ranges: strings(&service.source_ranges),
            ports: service.ports.clone(),
            affinity_seconds: service.affinity_seconds,
            local_only: service.local_only,
            endpoints: service.endpoints.iter().map(EndpointRow::from).collect(),
            other_proxy: service.other_proxy.as_ref().map(ToString::to_string),
            untouched: strings(&service.untouched),
        }
    }
}

impl From<&Endpoint> for EndpointRow {
    fn from(endpoint: &Endpoint) -> Self {
        let port = |map: &mesh_model::PortMap| PortRow { service: map.service, target: map.target };
        Self {
            address: endpoint.address,
            ports: endpoint.ports.iter().map(port).collect(),
            workload: endpoint.workload.clone(),
            ready: endpoint.ready,
            node: endpoint.node.as_ref().map(ToString::to_string),
            for_zones: strings(&endpoint.for_zones),
            for_nodes: strings(&endpoint.for_nodes),
        }
    }
}

fn strings<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}
