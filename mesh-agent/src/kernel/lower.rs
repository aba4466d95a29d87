//! From the model to map entries: what the hooks settle without the agent.
//!
//! ```text
//! Services ─▶ refused, or the endpoints that may be chosen                (services)
//! workloads ─▶ in the mesh, and by which policies                         (policies, remembered in memory)
//! policies × pods of the node ─▶ who may talk to whom at which port       (policies, pairs)
//! all of them ─▶ rows, in an order that shows nothing half                (lowerer, table, numbers)
//! ```
//!
//! Pure. The same decisions as [`mesh_model::route`] and [`mesh_model::policy`], taken ahead: tests hold them equal on random
//! worlds. What has no row is the agent's to decide, so a row that is missing never lets anything pass: it costs the way
//! through the agent, and moves a refusal from `connect(2)` to a reset. `Lowerer` keeps what was lowered and writes what differs.

mod lowerer;
mod memory;
mod numbers;
mod pairs;
mod policies;
mod services;
mod table;
#[cfg(test)]
mod tests;

pub use lowerer::{LocalPod, LocalPods, Lowerer, Step};
pub use numbers::Reserve;
#[cfg(test)]
use policies::Work;
pub use table::Rows;
