//! What the files of the exhaustion suite share. The suite itself is in `tests/`, one file per thing that runs out: ports,
//! room in the backlog, room in the kernel's maps, descriptors.
//!
//! Every test has its mesh in a lab ([`lab::Lab`]) at the kernel's defaults. Here are the cast of pods, connections that
//! are held in thousands, the kernel's own counters of a pod's namespace, the agents' metrics and log, the pinned maps and
//! the limit of open files.

pub mod cast;
pub mod counters;
pub mod held;
pub mod limits;
pub mod maps;
pub mod seen;
