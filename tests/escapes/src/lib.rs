//! What the files of the escapes suite share. The suite itself is in `tests/`: one file for each kind of way around the mesh,
//! or to be somebody else, tried by real programs in captured pods with all of the product running.
//!
//! Each attempt is judged from outside the pod that makes it: by what arrives at the other end, by whom the far agent takes
//! it for, and by the wire between the nodes, on which nothing of what a captured pod says to a captured peer may be read.
//!
//! A row or test whose name begins with `documented:` shows what the mesh does not do (docs/threat-model.md says why).

pub mod attempt;
pub mod door;
pub mod outlet;
pub mod stage;

pub use attempt::Attempt;
pub use door::{Door, Guest};
pub use stage::Stage;
