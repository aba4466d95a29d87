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
    derive = "PartialEq",
    doc = "What the agent of the node of this name said last. Written by the controller.",
    printcolumn(
        name = "Agent",
        type_ = "string",
        description = "The agent's version",
        json_path = ".status.agentVersion"
    ),
    printcolumn(
        name = "Connected",
        type_ = "string",
        description = "The agent has a stream to a controller",
        json_path = ".status.conditions[?(@.type=='Connected')].status"
    ),
    printcolumn(
        name = "Captured",
        type_ = "integer",
        description = "How many pods of the node are in the mesh",
        json_path = ".status.capturedPods"
    ),
    printcolumn(
        name = "Left",
        type_ = "boolean",
        description = "The mesh is being uninstalled, and this node has let go of everything",
        json_path = ".status.left"
    ),
    printcolumn(
        name = "Last seen",
        type_ = "date",
        description = "When the agent was last connected",
        json_path = ".status.lastSeen"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
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
    /// The replica of the controller to which its agent is connected, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// UIDs of the pods that its agent captured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captured: Vec<String>,
    /// How many they are: a printer column cannot count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_pods: Option<i32>,
    /// UIDs of the pods that it captured and let go, while their peers may still think otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<String>,
    /// Of those, which its agent still serves until every agent of every replica knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
    /// A digest of the policies that its agent has applied, for the other replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies: Option<String>,
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
