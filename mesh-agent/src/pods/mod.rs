//! The pods of this node: found, taken in, let go.
//!
//! ```text
//! watch (cgroups come and go) ─┐
//! control (what the world says) ─┼─▶ one actor ─▶ Entry::drive (enroll) ─▶ kernel maps, listeners, reports
//! keyring (certificates come) ──┘
//! ```
//!
//! One actor owns every pod's state and is alone in writing pods, cgroups, addresses and listeners to the kernel; it
//! runs on a thread of its own, because looking at cgroups and namespaces blocks for a moment. A pod that needs another
//! look is driven again after a while, whatever happened.
//!
//! It also sees to it that what it wrote stays: the hooks are looked at every second, maps and listeners every 5 s
//! (`ledger`), each pod's namespace every 30 s. What differs is put back, counted and said.

mod actor;
mod earlier;
mod enroll;
mod find;
mod first;
mod guards;
mod ledger;
pub mod listeners;
mod local;
mod on_node;
mod pod;
mod refused;
mod stage;
mod watch;

pub use actor::{Handle, PodsConfig, spawn};
pub use find::{is_pods_cgroup, kubepods};
pub use first::spare_running;
pub use listeners::Listener;
pub use local::{Local, Unguarded};
pub use pod::Pod;
pub use watch::Watch;
