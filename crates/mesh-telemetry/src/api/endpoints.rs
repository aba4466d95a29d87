//! Answer of `/v1/endpoints`: where a node's agent sends who dials a Service.

use std::net::SocketAddr;

use mesh_model::{Phase, Tunnel, Uid};
use serde::{Deserialize, Serialize};

/// The endpoints of the Services that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// Seen from this node.
    pub node: String,
    /// Which is in this zone; `null` where nobody has said so.
    pub zone: Option<String>,
    /// One an endpoint, port and family.
    pub endpoints: Vec<ChoiceRow>,
    /// How many there are beyond those that are listed.
    pub more: u64,
}

/// One place where a Service is served, at one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoiceRow {
    /// The Service's Kubernetes namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// The endpoint and its own port; `null`: the Service has none for the port.
    pub address: Option<SocketAddr>,
    /// The pod behind it; `null` where it is none that the mesh knows.
    pub pod: Option<PodName>,
    /// Its node; `null` where nobody has said so.
    pub node: Option<String>,
    /// Its node's zone, where it is this node's.
    pub zone: Option<String>,
    /// Zones whose clients it is for; empty: everybody's.
    pub for_zones: Vec<String>,
    /// Nodes likewise.
    pub for_nodes: Vec<String>,
    /// Ready; otherwise it is terminating and still serves.
    pub ready: bool,
    /// Where in its life the pod is; `null` where it is none that the mesh knows.
    pub phase: Option<Phase>,
    /// How it is reached; `null` likewise: in plain text, as what is outside the mesh.
    pub tunnel: Option<Tunnel>,
    /// Connections of this node's pods may go there.
    pub chosen: bool,
    /// Why not, in words; `null` where they may.
    pub why: Option<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Unique over the mesh and over time.
    pub uid: Uid,
}
