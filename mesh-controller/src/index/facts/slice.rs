//! An EndpointSlice: endpoints that somebody else has worked out.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

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
    /// Endpoints that may be chosen.
    pub endpoints: Vec<SliceEndpoint>,
    /// The endpoints' TCP ports.
    pub ports: Vec<SlicePort>,
}

/// One endpoint: ready and not terminating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Addresses of one family, of which any stands for the endpoint.
    pub addresses: Vec<IpAddr>,
    /// The pod behind it.
    pub pod: Option<PodReference>,
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
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().filter(|endpoint| serves(endpoint)) {
            let addresses = endpoint
                .addresses
                .iter()
                .map(|text| address("endpoints.addresses", text))
                .collect::<Result<_, _>>()?;
            let reference = endpoint.target_ref.as_ref().filter(|to| to.kind.as_deref() == Some("Pod"));
            let pod = reference.and_then(|to| {
                let in_namespace = to.namespace.as_deref().unwrap_or(&namespace);
                Some(PodReference { namespace: in_namespace.into(), name: to.name.as_deref()?.into() })
            });
            endpoints.push(SliceEndpoint { addresses, pod });
        }
        let mut ports = Vec::new();
        for entry in slice.ports.iter().flatten().filter(|entry| is_tcp(entry.protocol.as_deref())) {
            // Without a number: all ports, which no Service of clusters has.
            let Some(number) = entry.port else { continue };
            let name = entry.name.clone().unwrap_or_default();
            ports.push(SlicePort { name, port: port("ports.port", number)? });
        }
        Ok(Some(Self { namespace, name, service: service.as_str().into(), endpoints, ports }))
    }
}

/// Conditions that are not given are as good as can be (EndpointSlice API).
fn serves(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false)
}
