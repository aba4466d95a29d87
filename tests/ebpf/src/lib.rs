//! What the tests of the kernel half stand on: the object loaded with no agent, pods of the lab, and sockets that belong
//! to them.
//!
//! ```text
//!   test ──▶ Stage (a lab of one node, the hooks at its cgroup)
//!              ├─ Hooks     loads the object, writes and reads its maps, attaches, counts
//!              ├─ Hand      a process in a pod's cgroup and namespace that opens and connects sockets
//!              ├─ Door      a listener of the test's: who came, and that nobody did
//!              └─ Captured  a pod as an agent would have captured it: map entries, three listeners a family, sk_lookup
//! ```
//!
//! The tests play the agent: they write the maps and hold the listeners. So a row says what the kernel half does by
//! itself, whatever an agent makes of it. Not here: anything of `mesh-agent` or `mesh-ebpf`; the wire between them
//! (`mesh-common`) is all that is shared. `btf` and `object` read the object without a kernel.

pub mod btf;
pub mod captured;
pub mod channel;
pub mod door;
pub mod family;
pub mod hand;
pub mod hooks;
pub mod link;
pub mod object;
pub mod stage;

pub use captured::Captured;
pub use door::Door;
pub use family::Family;
pub use hand::Hand;
pub use hooks::{Counts, Hooks};
pub use stage::Stage;
