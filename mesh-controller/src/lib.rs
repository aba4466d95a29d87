//! The cluster half of Weft: makes a world of what the operator wrote, tells every agent, and signs certificates.
//!
//! ```text
//!           facts           changes            deltas
//! watch ────────────▶ index ─────────▶ publish ═══════▶ agents
//!                       ▲                 ║
//!                       └── captures ─────╝   issue ◀── signing requests
//!                       ▲                 ▼
//!                       └─── words ─── reconcile ─▶ the Kubernetes API (status, NodeStates, Leases, Events)
//! ```
//!
//! Invariants: the index is pure and alone decides what the world is; nobody waits for a slow agent; the controller's
//! absence changes nothing on the nodes. Not here: the data path, and anything that links it.

pub mod admin;
pub mod cluster;
pub mod config;
pub mod index;
pub mod issue;
pub mod metrics;
pub mod publish;
pub mod reconcile;
pub mod run;
pub mod state;
pub mod watch;

/// An error and all its causes on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
