//! Where facts come from: a directory of YAML and JSON files (here), or the Kubernetes API ([`kubernetes`]).
//!
//! ```text
//! inotify, slow re-scan ─▶ scan: which files changed ─▶ parse: documents, objects, facts ─▶ catalog: who says what
//!                                                                                            │
//!                                             Batch { changes, rows, partial } ◀─────────────┘ ─▶ the index
//! ```
//!
//! Invariants: a file counts whole or not at all; a broken file changes nothing, its last good state stays in force;
//! of two files with the same object the first by path counts. Not here: what the facts mean.

mod catalog;
pub mod files;
mod inotify;
pub mod kubernetes;
mod parse;
pub mod settled;

#[cfg(test)]
pub(crate) use parse::facts_of;

#[cfg(test)]
mod tests;

use mesh_telemetry::api::FileRow;

pub use catalog::FactChange;
pub use files::{FilesConfig, FilesError, Source};
pub use settled::Asker;

/// What the thread that follows the files says.
#[derive(Debug)]
pub enum Told {
    /// Something is different.
    Changed(Batch),
    /// All that was there when these asked has been told.
    Settled(Vec<settled::Question>),
}

/// What one look at the files gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Steps from the facts of the last batch to those of this one.
    pub changes: Vec<FactChange>,
    /// Every file and what is wrong with it.
    pub rows: Vec<FileRow>,
    /// Some file could never be read: what it holds is unknown.
    pub partial: bool,
}
