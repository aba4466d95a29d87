//! The wire between the operator and the controller: Weft's own objects (`weft.dev/v1alpha1`), and what the mesh makes of
//! them.
//!
//! ```text
//! MeshConfig ──▶ mesh_model::MeshSettings ──▶ every agent
//! AuthorizationPolicy ──▶ mesh_model::policy::Policy ──▶ every agent
//! NodeState ◀── the controller: what a node's agent said, for the other replicas and for people
//! ```
//!
//! Types are the source: `crds` makes CustomResourceDefinitions of them, the binary of this crate prints those, and
//! `cargo xtask gen` puts them into the chart. Invariants: what a schema accepts converts without an error, and what does not is refused by the API
//! server with a message that says what to write. Not here: talking to an API server.

#![allow(clippy::duplicated_attributes, reason = "columns of a definition have types, which may be equal")]

pub mod authorization_policy;
pub mod crds;
pub mod duration;
pub mod mesh_config;
pub mod network_policy;
pub mod node_state;
pub mod port;

pub use authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec};
pub use mesh_config::{KeyCache, LogFormat, MeshConfig, MeshConfigSpec, PreCaptureSockets, UnknownPods};
pub use node_state::{NodeState, NodeStateSpec, NodeStateStatus};
pub use port::PortRange;

/// The group of Weft's objects.
pub const GROUP: &str = "weft.dev";
/// The only MeshConfig that counts.
pub const MESH_CONFIG: &str = "default";
/// On a Namespace or a Pod, `enabled` or `disabled`: whether the mesh captures it. The pod's own wins.
pub const CAPTURE_LABEL: &str = "weft.dev/capture";
/// On the MeshConfig, `"true"`: the mesh is being uninstalled.
pub const LEAVING_ANNOTATION: &str = "weft.dev/leaving";
