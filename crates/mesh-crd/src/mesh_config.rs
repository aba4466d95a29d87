//! MeshConfig: what the operator sets for the whole mesh. One object, named `default`.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use mesh_model::policy::{Mtls, PortMtls};
use mesh_model::{MeshSettings, TrustDomain};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::LEAVING_ANNOTATION;
use crate::authorization_policy::{PolicyError, check_selector};
use crate::duration::{self, NotADuration};
use crate::network_policy::{Labels, matches};
use crate::port::{NotAPort, PortRange};

mod observe;

pub use observe::{AccessLogMode, AccessLogSpec, MetricsProfile, MetricsSpec};

#[cfg(test)]
mod tests;

/// What the operator sets for the whole mesh. A field that is not set has the value of the component's own flag.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "MeshConfig",
    plural = "meshconfigs",
    singular = "meshconfig",
    shortname = "mc",
    category = "weft",
    status = "MeshConfigStatus",
    derive = "PartialEq",
    doc = "What the operator sets for the whole mesh. One object, named `default`.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        description = "In force as it stands",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Trust domain",
        type_ = "string",
        description = "What every identity begins with",
        json_path = ".spec.trustDomain"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        description = "Why it is in force or not",
        json_path = ".status.conditions[?(@.type=='Accepted')].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshConfigSpec {
    /// SPIFFE trust domain of all identities (spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT). Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Destinations that captured pods dial as if there were no mesh (CIDRs).
    #[serde(default, rename = "excludedCIDRs", skip_serializing_if = "Vec::is_empty")]
    pub excluded_cidrs: Vec<String>,
    /// Destination ports likewise, whatever the address: numbers, or ranges like "9000-9010".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_ports: Vec<PortRange>,
    /// Namespaces whose pods are outside the mesh before the controller has spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_namespaces: Option<Vec<String>>,
    /// What a pod may do that nobody has classified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_pods: Option<UnknownPods>,
    /// What becomes of sockets that a pod opened before its capture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_capture_sockets: Option<PreCaptureSockets>,
    /// Where agents keep private keys over a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_cache: Option<KeyCache>,
    /// The port on which kubelet listens on every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_port: Option<u16>,
    /// Lifetime of workloads' certificates, for example 24h (1m to 90d).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_lifetime: Option<String>,
    /// How agents and controller write log lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Whether captured pods take connections without identity: Permissive (the default) or Strict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsMode>,
    /// Where something else holds than mtls says: the first that fits a pod and port counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mtls_overrides: Vec<MtlsOverrideSpec>,
    /// How connections between pods of one node go: direct (the default, in the kernel, where the node can vouch for the
    /// source) or tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_node: Option<SameNode>,
    /// What agents count of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsSpec>,
    /// Of which connections agents write a line to their standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogSpec>,
}

/// Whether connections without identity are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// They are; policies judge them as peers without identity.
    Permissive,
    /// They are refused, but for the kubelet's probes.
    Strict,
}

/// Pods and ports at which something else holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MtlsOverrideSpec {
    /// Of these namespaces; left out: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// Pods with these labels; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// The pods' own ports: numbers, or ranges like "9000-9010"; left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
    /// What holds there.
    pub mtls: MtlsMode,
}

/// How connections between pods of one node go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// From socket to socket, in the kernel.
    Direct,
    /// Through the agent and a tunnel, as between nodes.
    Tunnel,
}

/// A checked [`MtlsOverrideSpec`].
#[derive(Clone, Debug, PartialEq)]
pub struct MtlsOverride {
    /// `None`: all.
    pub namespaces: Option<Vec<String>>,
    /// `None`: all pods.
    pub selector: Option<LabelSelector>,
    /// What holds at which ports.
    pub ports: Vec<PortMtls>,
}

/// There is nothing in it that is not equal to itself: numbers are whole.
impl Eq for MtlsOverride {}

/// What the controller says of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigStatus {
    /// The generation of the spec that the conditions are about.
    pub observed_generation: Option<i64>,
    /// `Accepted`: in force as it stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What a pod may do that nobody has classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownPods {
    /// Its TCP connects are refused.
    Refuse,
    /// It connects as if there were no mesh.
    Allow,
}

/// What becomes of sockets that a pod opened before its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreCaptureSockets {
    /// Those of a pod that was labelled when it started, to captured peers, are reset.
    Reset,
    /// They are left alone.
    Keep,
}

/// Where agents keep private keys over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyCache {
    /// In the node's memory.
    Memory,
    /// On the node's disk, too.
    Disk,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a MeshConfig cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeshConfigError {
    /// Another name than `default`.
    #[error("the MeshConfig of a mesh is named \"default\", not {0:?}")]
    Name(String),
    /// Not a CIDR.
    #[error("spec.excludedCIDRs: {0:?} is no CIDR: write 10.0.0.0/8 or fd00::/8")]
    Cidr(String),
    /// Not a port.
    #[error("spec.excludedPorts")]
    Port(#[source] NotAPort),
    /// Not a time, or too short or too long.
    #[error("spec.certificateLifetime")]
    Lifetime(#[source] NotADuration),
    /// Too short or too long.
    #[error("spec.certificateLifetime: {0:?} is not between 1m and 90d")]
    LifetimeRange(String),
    /// Zero.
    #[error("spec.kubeletPort: 0 is no port")]
    KubeletPort,
    /// Not a trust domain.
    #[error("spec.trustDomain: {0:?} is no trust domain")]
    TrustDomain(String),
    /// A port of an override.
    #[error("spec.mtlsOverrides[{0}].ports")]
    OverridePort(usize, #[source] NotAPort),
    /// A selector of an override.
    #[error(transparent)]
    OverrideSelector(PolicyError),
    /// A list of an override that is empty.
    #[error("spec.mtlsOverrides[{0}].{1} is empty: leave it out for all")]
    OverrideEmpty(usize, &'static str),
    /// Too few series, or too many.
    #[error("spec.metrics.maxSeries: {0} is not between 1000 and 1000000")]
    MaxSeries(u32),
    /// Less than nothing, or more than all.
    #[error("spec.accessLog.sample: {0} is not between 0.0 and 1.0; to write no line at all set mode: Off")]
    Sample(String),
    /// Not a time.
    #[error("spec.accessLog.minDuration")]
    MinDuration(#[source] NotADuration),
    /// A list of namespaces that is empty.
    #[error("spec.accessLog.namespaces is empty: leave it out for all, or set mode: Off for none")]
    LogNamespaces,
    /// Not the name of a namespace.
    #[error("spec.accessLog.namespaces: {0:?} cannot be the name of a namespace")]
    LogNamespace(String),
}

impl MeshConfig {
    /// What agents are told.
    pub fn settings(&self) -> Result<MeshSettings, MeshConfigError> {
        let spec = &self.spec;
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name != crate::MESH_CONFIG {
            return Err(MeshConfigError::Name(name.into()));
        }
        if let Some(domain) = &spec.trust_domain {
            TrustDomain::new(domain).map_err(|_| MeshConfigError::TrustDomain(domain.clone()))?;
        }
        self.certificate_lifetime()?;
        self.mtls_overrides()?;
        let cidr = |text: &String| {
            text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| MeshConfigError::Cidr(text.clone()))
        };
        let annotations = self.metadata.annotations.as_ref();
        Ok(MeshSettings {
            excluded_prefixes: spec.excluded_cidrs.iter().map(cidr).collect::<Result<_, _>>()?,
            excluded_ports: spec
                .excluded_ports
                .iter()
                .map(|range| range.range().map_err(MeshConfigError::Port))
                .collect::<Result<_, _>>()?,
            bootstrap_namespaces: spec
                .bootstrap_namespaces
                .as_ref()
                .map(|names| names.iter().map(|name| name.as_str().into()).collect()),
            allow_unknown_pods: spec.unknown_pods.map(|word| word == UnknownPods::Allow),
            keep_pre_capture_sockets: spec.pre_capture_sockets.map(|word| word == PreCaptureSockets::Keep),
            keys_on_disk: spec.key_cache.map(|word| word == KeyCache::Disk),
            kubelet_port: match spec.kubelet_port {
                Some(0) => return Err(MeshConfigError::KubeletPort),
                port => port,
            },
            log_format: spec.log_format.map(|format| format.as_str().into()),
            mtls: spec.mtls.map(Mtls::from),
            same_node_tunnel: spec.same_node.map(|word| word == SameNode::Tunnel),
            metrics: spec.metrics.as_ref().map(MetricsSpec::settings).transpose()?.unwrap_or_default(),
            access_log: spec
                .access_log
                .as_ref()
                .map(AccessLogSpec::settings)
                .transpose()?
                .unwrap_or_default(),
            leaving: annotations
                .and_then(|all| all.get(LEAVING_ANNOTATION))
                .is_some_and(|value| value == "true"),
        })
    }

    /// Where something else holds than `spec.mtls` says, in their order.
    pub fn mtls_overrides(&self) -> Result<Vec<MtlsOverride>, MeshConfigError> {
        let read = |(at, one): (usize, &MtlsOverrideSpec)| {
            if one.namespaces.as_ref().is_some_and(Vec::is_empty) {
                return Err(MeshConfigError::OverrideEmpty(at, "namespaces"));
            }
            if one.ports.as_ref().is_some_and(Vec::is_empty) {
                return Err(MeshConfigError::OverrideEmpty(at, "ports"));
            }
            if let Some(selector) = &one.pod_selector {
                check_selector(selector, &format!("spec.mtlsOverrides[{at}].podSelector"))
                    .map_err(MeshConfigError::OverrideSelector)?;
            }
            let mtls = Mtls::from(one.mtls);
            let ports = match &one.ports {
                None => vec![PortMtls { ports: 1..=u16::MAX, mtls }],
                Some(ports) => ports
                    .iter()
                    .map(|port| port.range().map(|ports| PortMtls { ports, mtls }))
                    .collect::<Result<_, _>>()
                    .map_err(|error| MeshConfigError::OverridePort(at, error))?,
            };
            Ok(MtlsOverride { namespaces: one.namespaces.clone(), selector: one.pod_selector.clone(), ports })
        };
        self.spec.mtls_overrides.iter().enumerate().map(read).collect()
    }

    /// The lifetime of workloads' certificates, if it is set.
    pub fn certificate_lifetime(&self) -> Result<Option<std::time::Duration>, MeshConfigError> {
        let Some(text) = &self.spec.certificate_lifetime else { return Ok(None) };
        let lifetime = duration::parse(text).map_err(MeshConfigError::Lifetime)?;
        match lifetime.as_secs() {
            60..=7_776_000 => Ok(Some(lifetime)),
            _ => Err(MeshConfigError::LifetimeRange(text.clone())),
        }
    }
}

impl LogFormat {
    /// As it is written.
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl From<MtlsMode> for Mtls {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Strict => Self::Strict,
        }
    }
}

impl MtlsOverride {
    /// Whether it is about a pod.
    pub fn is_about(&self, namespace: &str, labels: &Labels) -> bool {
        self.namespaces.as_ref().is_none_or(|names| names.iter().any(|name| name == namespace))
            && self.selector.as_ref().is_none_or(|selector| matches(selector, labels))
    }
}
