//! The nouns of the mesh and the pure decisions over them.
//!
//! Every other crate speaks in these terms: a [`Workload`] (a pod and what the mesh knows of it), a [`Service`], an
//! [`Identity`], and the [`World`] that holds them all as of the last applied update. [`route`] is the one place that
//! says where an outbound connection goes, [`policy`] the one that says whether it may, [`explain`] writes down what both say; [`Reason`]
//! is the one list of words for why something was refused.
//!
//! Invariants: no IO, no async, no clock and no randomness (a balancer is handed in), so that every decision can be
//! tested as a table, and `meshctl` can print the very decision that the agent takes.

pub mod codes;
pub mod explain;
mod identity;
pub mod policy;
mod reason;
pub mod route;
mod service;
mod settings;
mod workload;
mod world;

pub use identity::{Identity, IdentityError, TrustDomain};
pub use reason::{Reason, Topic};
pub use service::{
    Candidate, Endpoint, Here, NotUntouched, PortMap, Question, Scope, Served, Service, ServiceKey,
    Untouched, usable,
};
pub use settings::{
    AccessLogMode, AccessLogSettings, MeshSettings, MetricsProfile, MetricsSettings, NoShare, NodeInfo, Share,
};
pub use workload::{Phase, PodState, Tunnel, Uid, Workload};
pub use world::{Change, World};
