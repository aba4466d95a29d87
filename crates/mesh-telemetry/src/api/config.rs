//! Answer of `/v1/config`: everything that an agent holds, and where each setting comes from. No key, no token.

use mesh_model::policy::Policy;
use mesh_model::{MeshSettings, NodeInfo, Workload};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ServiceRow, Timestamp};

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDump {
    /// When it was asked for.
    pub as_of: Timestamp,
    /// The agent's version.
    pub version: String,
    /// Its node.
    pub node: String,
    /// The version of the controller's world that it has in whole; `null` before the first.
    pub applied: Option<String>,
    /// A whole snapshot was applied (or loaded from the node's disk).
    pub complete: bool,
    /// How many seconds old the world is that was loaded from the node's disk; `null` once the controller has told it all.
    pub cached_seconds: Option<u64>,
    /// What is in force, by name.
    pub settings: Vec<SettingRow>,
    /// What the controller says of the mesh; `null` where there is no MeshConfig.
    pub mesh: Option<MeshSettings>,
    /// What the controller says of the node; `null` where it says nothing.
    pub node_info: Option<NodeInfo>,
    /// Every workload, by namespace and name.
    pub workloads: Vec<Workload>,
    /// Every Service, by namespace and name.
    pub services: Vec<ServiceRow>,
    /// Every policy, by namespace and name.
    pub policies: Vec<Policy>,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingRow {
    /// The flag without its dashes, or MeshConfig's field where there is no flag for it.
    pub name: String,
    /// What is in force; `null`: nothing is set.
    pub value: Value,
    /// Where it comes from: `default`, `flag --NAME`, `env NAME`, or `MeshConfig`.
    pub from: String,
    /// What it would be without the MeshConfig; `null` where that is not what it comes from.
    pub otherwise: Value,
}
