//! What the operator set for the whole mesh, and what an agent is told of its own node.
//!
//! ```text
//! MeshConfig (object) ─▶ controller ─▶ MeshSettings ─▶ every agent
//! Node (object) ───────▶ controller ─▶ NodeInfo ─────▶ the agent of that node alone
//! ```
//!
//! A setting that is `None` is left to the agent's own flags, so a mesh without a MeshConfig behaves as its flags say.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Mtls;

mod observe;

pub use observe::{AccessLogMode, AccessLogSettings, MetricsProfile, MetricsSettings, NoShare, Share};

/// Of the whole mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshSettings {
    /// Destinations that captured pods dial as if there were no mesh.
    pub excluded_prefixes: Vec<IpNet>,
    /// Destination ports likewise, whatever the address.
    pub excluded_ports: Vec<RangeInclusive<u16>>,
    /// Namespaces whose pods are outside the mesh before the controller has spoken.
    pub bootstrap_namespaces: Option<Vec<Arc<str>>>,
    /// Pods that nobody has classified may connect.
    pub allow_unknown_pods: Option<bool>,
    /// Sockets from before a pod's capture are left alone.
    pub keep_pre_capture_sockets: Option<bool>,
    /// Keys outlive the node's memory.
    pub keys_on_disk: Option<bool>,
    /// Where kubelet listens: who does is kubelet.
    pub kubelet_port: Option<u16>,
    /// How log lines are written: `text` or `json`.
    pub log_format: Option<Arc<str>>,
    /// Whether captured pods take plaintext, where nothing else is said of a workload.
    pub mtls: Option<Mtls>,
    /// Connections between pods of one node go through tunnels all the same.
    pub same_node_tunnel: Option<bool>,
    /// What agents count.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// Of which connections agents write a line.
    #[serde(default)]
    pub access_log: AccessLogSettings,
    /// The mesh is being uninstalled: agents release every pod, detach, and say so.
    pub leaving: bool,
}

/// Of one node, for its own agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}
