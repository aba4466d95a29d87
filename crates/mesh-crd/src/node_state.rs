//! NodeState: what a node's agent said, kept by the API server for the other replicas of the controller and for people.
//!
//! One small object a node, named like it, written by the replica to which the agent is connected. Its spec is empty: nobody
//! configures anything here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing: the object is the status.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "NodeState",
    plural = "nodestates",
    singular = "nodestate",
    shortname = "wns",
    category = "weft",
    status = "NodeStateStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateSpec {}

/// What the node's agent said last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateStatus {
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// UIDs of the pods that its agent captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captured: Vec<String>,
    /// UIDs of the pods that it captured and let go, while their peers may still think otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<String>,
    /// The mesh is leaving, and this node has let go of everything.
    #[serde(default)]
    pub left: bool,
    /// When the agent was last connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// `Connected`: whether the agent has a stream to a controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
