//! A Service: its addresses, TCP ports, selector and the rules of its traffic.
//!
//! What kube-proxy would not serve is not here: `ExternalName` is a DNS alias, an address of a family in which the Service
//! has no cluster address is nobody's, a load balancer's own address (`ipMode: Proxy`) is the load balancer's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_model::{ServiceKey, Untouched};

use super::{FactError, address, bad, is_tcp, name, namespace, port};

/// Whose Service it is, where it is not kube-proxy's.
pub(super) const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// What an API server that defaults would have filled in: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFact {
    /// Which one.
    pub key: ServiceKey,
    /// Cluster addresses; none for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// External IPs.
    pub external_addresses: Vec<IpAddr>,
    /// Addresses of a load balancer that keeps the destination.
    pub load_balancer_addresses: Vec<IpAddr>,
    /// Who may dial the load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<IpNet>,
    /// TCP ports, in the order they are written.
    pub ports: Vec<ServicePort>,
    /// Which pods serve it; empty: none, endpoints come from slices alone.
    pub selector: BTreeMap<String, String>,
    /// Pods count whether ready or not.
    pub publish_not_ready: bool,
    /// `sessionAffinity: ClientIP` and its timeout; 0: none.
    pub affinity_seconds: u32,
    /// `internalTrafficPolicy: Local`.
    pub local_only: bool,
    /// Whose it is, where it is not kube-proxy's.
    pub other_proxy: Option<Arc<str>>,
    /// What of it is left as it is.
    pub untouched: Vec<Untouched>,
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
        let (default_spec, default_status) = (ServiceSpec::default(), ServiceStatus::default());
        let spec = service.spec.as_ref().unwrap_or(&default_spec);
        let status = service.status.as_ref().unwrap_or(&default_status);
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
        let proxy = meta.labels.as_ref().and_then(|labels| labels.get(PROXY_LABEL));
        let mut fact = Self {
            key,
            addresses: addresses(spec)?,
            external_addresses: Vec::new(),
            load_balancer_addresses: Vec::new(),
            source_ranges: source_ranges(spec)?,
            ports,
            selector: spec.selector.clone().unwrap_or_default(),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            affinity_seconds: affinity(spec)?,
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            // An empty label is one, too: kube-proxy asks whether it is there.
            other_proxy: proxy.map(|proxy| if proxy.is_empty() { "unnamed" } else { proxy }.into()),
            untouched: Vec::new(),
        };
        if fact.addresses.is_empty() {
            // Headless: nothing is anybody's but the pods' own addresses.
            return Ok(Some(Self { source_ranges: Vec::new(), ..fact }));
        }
        fact.read_outer_addresses(spec, status)?;
        fact.read_other_ports(spec)?;
        fact.untouched.sort_unstable();
        fact.untouched.dedup();
        Ok(Some(fact))
    }

    fn read_outer_addresses(&mut self, spec: &ServiceSpec, status: &ServiceStatus) -> Result<(), FactError> {
        for ip in spec.external_ips.iter().flatten().filter(|ip| !ip.is_empty()) {
            let address = address("spec.externalIPs", ip)?;
            match self.serves_family_of(address) {
                true => push_once(&mut self.external_addresses, address),
                false => self.untouched.push(Untouched::Unserved(address)),
            }
        }
        let balancer = status.load_balancer.as_ref().and_then(|balancer| balancer.ingress.as_deref());
        for ingress in balancer.into_iter().flatten() {
            let Some(ip) = ingress.ip.as_deref().filter(|ip| !ip.is_empty()) else { continue };
            let address = address("status.loadBalancer.ingress.ip", ip)?;
            match ingress.ip_mode.as_deref() {
                None | Some("" | "VIP") if self.serves_family_of(address) => {
                    push_once(&mut self.load_balancer_addresses, address);
                }
                None | Some("" | "VIP") => self.untouched.push(Untouched::Unserved(address)),
                Some(_) => self.untouched.push(Untouched::Proxied(address)),
            }
        }
        Ok(())
    }

    fn read_other_ports(&mut self, spec: &ServiceSpec) -> Result<(), FactError> {
        for entry in spec.ports.iter().flatten() {
            let number = port("spec.ports.port", entry.port)?;
            match entry.protocol.as_deref() {
                Some("UDP") => self.untouched.push(Untouched::Udp(number)),
                Some("SCTP") => self.untouched.push(Untouched::Sctp(number)),
                _ => {}
            }
            let node_port = entry.node_port.filter(|node_port| *node_port != 0);
            if let Some(node_port) = node_port.filter(|_| is_tcp(entry.protocol.as_deref())) {
                self.untouched.push(Untouched::NodePort(port("spec.ports.nodePort", node_port)?));
            }
        }
        Ok(())
    }

    fn serves_family_of(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }
}

fn push_once(addresses: &mut Vec<IpAddr>, address: IpAddr) {
    if !addresses.contains(&address) {
        addresses.push(address);
    }
}

fn source_ranges(spec: &ServiceSpec) -> Result<Vec<IpNet>, FactError> {
    let field = "spec.loadBalancerSourceRanges";
    let read = |text: &String| {
        // kube-proxy forgives spaces.
        text.trim().parse().map_err(|_| bad(field, text, "not a range of addresses, as 10.0.0.0/8"))
    };
    spec.load_balancer_source_ranges.iter().flatten().map(read).collect()
}

fn affinity(spec: &ServiceSpec) -> Result<u32, FactError> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(0),
        Some("ClientIP") => {}
        Some(other) => return Err(bad("spec.sessionAffinity", other, "use \"None\" or \"ClientIP\"")),
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    match u32::try_from(seconds) {
        Ok(seconds @ 1..=86_400) => Ok(seconds),
        _ => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            Err(bad(field, seconds.to_string(), "a timeout is from 1 s to 86400 s"))
        }
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
