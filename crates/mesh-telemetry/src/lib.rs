//! What every end of the mesh says about itself: logs, metrics, readiness, the admin answers, and how it stops.
//!
//! ```text
//! signals ──▶ Shutdown ──▶ every task of an end
//! Ready, Registry, closures of the end ──▶ Routes ──▶ http::Server (unix socket: admin; TCP: metrics, readiness)
//! api, preflight: the JSON that an end answers with and `meshctl` prints
//! ```
//!
//! Invariants: nothing here knows what an agent or a controller is beyond the shapes in [`api`]; nothing here is on
//! the path of an application's byte. Not here: the metrics themselves (each end names its own) and the preflight's
//! checks (they belong to the end that needs what they check).

pub mod api;
pub mod http;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod preflight;
pub mod readiness;
pub mod shutdown;
