//! A Pod: who it is, where it runs, whether the operator wants it in the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_model::{Identity, Phase, Reason, TrustDomain, Uid};

use super::left_alone::other_mesh;
use super::{FactError, TUNNEL_ANNOTATION, address, bad, capture, is_tcp, kubernetes_name, name, namespace};

/// On a static pod's mirror: the UID that kubelet uses on the node, and so the one its cgroup carries.
const STATIC_POD_UID: &str = "kubernetes.io/config.hash";
/// What a ReplicaSet appends to its own name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// As its cgroup carries it.
    pub uid: Uid,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// What it is one replica of.
    pub owner: Arc<str>,
    /// Node it is scheduled on; empty while it is not.
    pub node: Arc<str>,
    /// Of its service account.
    pub identity: Identity,
    /// The addresses its status names, whoever owns them.
    pub addresses: Vec<IpAddr>,
    /// What its own capture label says.
    pub capture: Option<bool>,
    /// Served by another mesh's agent.
    pub foreign: bool,
    /// Served by another mesh within the pod, or by its redirection.
    pub other_mesh: Option<Reason>,
    /// The RuntimeClass that it runs under; `None` for the runtime's default.
    pub runtime_class: Option<Arc<str>>,
    /// Shares the host's network.
    pub host_network: bool,
    /// Where in its life it is.
    pub phase: Phase,
    /// Its readiness condition; a running pod without conditions is ready.
    pub ready: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The names of its containers' TCP ports.
    pub ports: BTreeMap<String, u16>,
}

impl PodFact {
    /// Reads a Pod.
    pub fn new(pod: &Pod, trust_domain: &TrustDomain) -> Result<Self, FactError> {
        let meta = &pod.metadata;
        let (default_spec, default_status) = (PodSpec::default(), PodStatus::default());
        let spec = pod.spec.as_ref().unwrap_or(&default_spec);
        let status = pod.status.as_ref().unwrap_or(&default_status);
        let (name, namespace) = (name(meta)?, namespace(meta)?);
        let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
        let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
        let phase = phase(meta, status);
        Ok(Self {
            uid: uid(meta)?,
            owner: owner(meta, &name),
            node: match spec.node_name.as_deref() {
                None | Some("") => "".into(),
                Some(node) => kubernetes_name("spec.nodeName", node)?,
            },
            identity: Identity::new(trust_domain.clone(), &namespace, account)
                .map_err(FactError::Identity)?,
            addresses: addresses(status)?,
            capture: capture(meta)?,
            foreign: foreign(meta)?,
            other_mesh: other_mesh(meta, spec),
            runtime_class: match spec.runtime_class_name.as_deref() {
                None | Some("") => None,
                Some(class) => Some(kubernetes_name("spec.runtimeClassName", class)?),
            },
            host_network: spec.host_network.unwrap_or(false),
            ready: ready(status, phase),
            phase,
            labels: meta.labels.clone().unwrap_or_default(),
            ports: named_ports(spec)?,
            name,
            namespace,
        })
    }
}

/// The UID becomes part of paths on the node: anything that could leave its directory is refused here.
fn uid(meta: &ObjectMeta) -> Result<Uid, FactError> {
    let annotated = meta.annotations.as_ref().and_then(|annotations| annotations.get(STATIC_POD_UID));
    let uid = annotated.or(meta.uid.as_ref()).filter(|uid| !uid.is_empty()).ok_or(FactError::NoUid)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if uid.len() > 128 || !uid.bytes().all(allowed) {
        return Err(bad("metadata.uid", uid, "a UID is letters, digits, '-' and '_', at most 128 of them"));
    }
    Ok(Uid::new(uid))
}

fn owner(meta: &ObjectMeta, pod: &Arc<str>) -> Arc<str> {
    let labels = meta.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).filter(|value| !value.is_empty());
    let references = meta.owner_references.iter().flatten();
    if let Some(controller) = references.into_iter().find(|owner| owner.controller == Some(true)) {
        let hash = label(TEMPLATE_HASH).filter(|_| controller.kind == "ReplicaSet");
        let deployment = hash
            .and_then(|hash| controller.name.strip_suffix(hash.as_str()))
            .and_then(|name| name.strip_suffix('-'))
            .filter(|name| !name.is_empty());
        return deployment.unwrap_or(&controller.name).into();
    }
    match label("app.kubernetes.io/name").or_else(|| label("app")) {
        Some(name) => name.as_str().into(),
        None => pod.clone(),
    }
}

fn phase(meta: &ObjectMeta, status: &PodStatus) -> Phase {
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => Phase::Finished,
        _ if meta.deletion_timestamp.is_some() => Phase::Terminating,
        // Unknown: its node does not answer; as far as anyone knows it runs.
        Some("Running" | "Unknown") => Phase::Running,
        _ => Phase::Pending,
    }
}

fn ready(status: &PodStatus, phase: Phase) -> bool {
    match status.conditions.as_deref() {
        None | Some([]) => phase == Phase::Running,
        Some(conditions) => {
            conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        }
    }
}

fn addresses(status: &PodStatus) -> Result<Vec<IpAddr>, FactError> {
    let mut addresses = Vec::new();
    let several = status.pod_ips.iter().flatten().map(|ip| ("status.podIPs", ip.ip.as_str()));
    let one = status.pod_ip.iter().map(|ip| ("status.podIP", ip.as_str()));
    for (field, ip) in several.chain(one).filter(|(_, ip)| !ip.is_empty()) {
        let address = address(field, ip)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn foreign(meta: &ObjectMeta) -> Result<bool, FactError> {
    match meta.annotations.as_ref().and_then(|annotations| annotations.get(TUNNEL_ANNOTATION)) {
        None => Ok(false),
        Some(word) if word == "hbone" => Ok(true),
        Some(other) => Err(bad(format!("annotation {TUNNEL_ANNOTATION}"), other, "use \"hbone\"")),
    }
}

fn named_ports(spec: &PodSpec) -> Result<BTreeMap<String, u16>, FactError> {
    let mut ports = BTreeMap::new();
    // An init container that restarts always is a sidecar and serves like any other.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    for container in spec.containers.iter().chain(sidecars) {
        for port in container.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_deref())) {
            let number = super::port("containerPort", port.container_port)?;
            if let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) {
                ports.entry(name.clone()).or_insert(number);
            }
        }
    }
    Ok(ports)
}
