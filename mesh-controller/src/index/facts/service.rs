//! A Service: its addresses, TCP ports and selector.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_model::ServiceKey;

use super::{FactError, address, is_tcp, name, namespace, port};

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFact {
    /// Which one.
    pub key: ServiceKey,
    /// Cluster addresses; none for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// TCP ports, in the order they are written.
    pub ports: Vec<ServicePort>,
    /// Which pods serve it; empty: none, endpoints come from slices alone.
    pub selector: BTreeMap<String, String>,
    /// Pods count as soon as they run.
    pub publish_not_ready: bool,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: String,
    /// The Service's own.
    pub port: u16,
    /// The pods'.
    pub target: Target,
}

/// A pod's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same on all pods.
    Number(u16),
    /// Whatever a container of the pod calls so.
    Name(String),
}

impl ServiceFact {
    /// Reads a Service; nothing for one that is only a DNS name.
    pub fn new(service: &Service) -> Result<Option<Self>, FactError> {
        let meta = &service.metadata;
        let key = ServiceKey::new(&namespace(meta)?, &name(meta)?);
        let default_spec = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default_spec);
        if spec.type_.as_deref() == Some("ExternalName") {
            return Ok(None);
        }
        let mut ports = Vec::new();
        for port in spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref())) {
            let number = self::port("spec.ports.port", port.port)?;
            ports.push(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                port: number,
                target: target(port.target_port.as_ref(), number)?,
            });
        }
        Ok(Some(Self {
            key,
            addresses: addresses(spec)?,
            ports,
            selector: spec.selector.clone().unwrap_or_default(),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        }))
    }
}

fn addresses(spec: &ServiceSpec) -> Result<Vec<IpAddr>, FactError> {
    let mut addresses = Vec::new();
    for ip in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
        match ip.as_str() {
            "" | "None" => {}
            ip => {
                let address = address("spec.clusterIPs", ip)?;
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
    }
    Ok(addresses)
}

fn target(target: Option<&IntOrString>, same: u16) -> Result<Target, FactError> {
    match target {
        None => Ok(Target::Number(same)),
        // What an API server that defaults would have filled in.
        Some(IntOrString::Int(0)) => Ok(Target::Number(same)),
        Some(IntOrString::Int(number)) => port("spec.ports.targetPort", *number).map(Target::Number),
        Some(IntOrString::String(name)) if name.is_empty() => Ok(Target::Number(same)),
        Some(IntOrString::String(name)) => match name.parse::<i32>() {
            Ok(number) => port("spec.ports.targetPort", number).map(Target::Number),
            Err(_) => Ok(Target::Name(name.clone())),
        },
    }
}
