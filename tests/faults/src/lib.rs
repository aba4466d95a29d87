//! What several files of the fault suite share. The suite itself is in `tests/`, one file a fault.
//!
//! - [`vanish`]: a node whose frames are dropped, both ways and without a word.
//! - [`pins`]: what the agent of a node has pinned, to be looked at and to be tampered with.
//! - [`links`]: the same for attached programs.
//! - [`meters`]: an agent's counters.
//!
//! The cast and the connections are those of the `datapath` suite.

pub mod links;
pub mod meters;
pub mod pins;
pub mod vanish;
