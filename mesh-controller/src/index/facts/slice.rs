//! An EndpointSlice: endpoints that somebody else has worked out.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::service::PROXY_LABEL;
use super::{FactError, address, is_tcp, name, namespace, port};

/// Which Service a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFact {
    /// Namespace, the Service's too.
    pub namespace: Arc<str>,
    /// The slice's own name.
    pub name: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// All its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// The endpoints' TCP ports.
    pub ports: Vec<SlicePort>,
    /// It is another proxy's than kube-proxy's.
    pub other_proxy: bool,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The first of its addresses: kube-proxy takes no other.
    pub address: IpAddr,
    /// The pod behind it.
    pub pod: Option<PodReference>,
    /// What becomes of new connections.
    pub state: EndpointState,
    /// The node it is on.
    pub node: Option<Arc<str>>,
    /// Zones whose clients it is for.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes whose clients it is for.
    pub for_nodes: Vec<Arc<str>>,
}

/// An endpoint's conditions, as kube-proxy reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// May be chosen.
    Ready,
    /// Terminating and still serving: chosen when no other is ready.
    Draining,
    /// Neither.
    NotReady,
}

/// A pod that an endpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReference {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service's name for it.
    pub name: String,
    /// The endpoints' own.
    pub port: u16,
}

impl SliceFact {
    /// Reads an EndpointSlice; nothing for one of no Service, or of names instead of addresses.
    pub fn new(slice: &EndpointSlice) -> Result<Option<Self>, FactError> {
        let meta = &slice.metadata;
        let (name, namespace) = (name(meta)?, namespace(meta)?);
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        let Some(service) = service.filter(|service| !service.is_empty()) else { return Ok(None) };
        if slice.address_type == "FQDN" {
            return Ok(None);
        }
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            let Some(first) = endpoint.addresses.first() else { continue };
            let reference = endpoint.target_ref.as_ref().filter(|to| to.kind.as_deref() == Some("Pod"));
            let pod = reference.and_then(|to| {
                let in_namespace = to.namespace.as_deref().unwrap_or(&namespace);
                Some(PodReference { namespace: in_namespace.into(), name: to.name.as_deref()?.into() })
            });
            let hints = endpoint.hints.as_ref();
            let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
            let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
            endpoints.push(SliceEndpoint {
                address: address("endpoints.addresses", first)?,
                pod,
                state: state(endpoint),
                node: endpoint.node_name.as_deref().filter(|node| !node.is_empty()).map(Arc::from),
                for_zones: zones.iter().map(|zone| zone.name.as_str().into()).collect(),
                for_nodes: nodes.iter().map(|node| node.name.as_str().into()).collect(),
            });
        }
        let mut ports = Vec::new();
        for entry in slice.ports.iter().flatten().filter(|entry| is_tcp(entry.protocol.as_deref())) {
            // Without a number: all ports, which no Service of clusters has.
            let Some(number) = entry.port else { continue };
            let name = entry.name.clone().unwrap_or_default();
            ports.push(SlicePort { name, port: port("ports.port", number)? });
        }
        let other_proxy = meta.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_LABEL));
        Ok(Some(Self { namespace, name, service: service.as_str().into(), endpoints, ports, other_proxy }))
    }
}

/// Conditions that are not given are as good as can be (EndpointSlice API).
fn state(endpoint: &Endpoint) -> EndpointState {
    let conditions = endpoint.conditions.as_ref();
    let is = |condition: Option<bool>, otherwise: bool| condition.unwrap_or(otherwise);
    let ready = is(conditions.and_then(|all| all.ready), true);
    let serving = is(conditions.and_then(|all| all.serving), true);
    let terminating = is(conditions.and_then(|all| all.terminating), false);
    match (ready, serving && terminating) {
        // A pod that ends is ready all the same where `publishNotReadyAddresses` says so.
        (true, _) => EndpointState::Ready,
        (false, true) => EndpointState::Draining,
        (false, false) => EndpointState::NotReady,
    }
}
