//! The suite of the control plane: one controller, simulated agents, and how both fare with a thousand workloads and with
//! ten thousand.
//!
//! ```text
//!   home (objects) ─▶ controller (a process of its own) ═▶ agents (mesh_xds clients, in this process)
//!        ▲ change ─────────────── every agent has applied it ───────────────┘
//!   for each size: load ─▶ 20 agents ─▶ changes ─▶ idle ─▶ 100 new agents ─▶ restart, 100 return ─▶ one agent's memory
//! ```
//!
//! The agents speak the wire through the client that real ones use, and count their own bytes; what a real one does with
//! a world beside keeping it (maps, pods) is not here. A home is where the objects are: [`home::Home`] is the seam for
//! another one than a directory.

pub mod agent;
pub mod controller;
pub mod fleet;
pub mod home;
pub mod phases;
pub mod report;
pub mod shape;

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context, Result};

use crate::cli::ControlOptions;
use crate::report::Outcome;
use home::Directory;
use report::Report;
use shape::Shape;

/// Runs the suite; how it came out.
pub fn run(options: &ControlOptions) -> Result<Outcome> {
    let json = options.json.as_ref().map(|path| -> Result<File> {
        File::create(path).with_context(|| format!("write {}", path.display()))
    });
    let json = json.transpose()?;
    let mut report = Report::default();
    for &workloads in &options.workloads {
        println!("{workloads} workloads");
        let place = tempfile::tempdir().context("make a temporary directory")?;
        let home = Directory::create(place.path())?;
        let measured = phases::measure(Shape::of(workloads), home, place.path(), options);
        report.add(workloads, measured.map_err(|error| format!("{error:#}")));
    }
    print!("{}", report.table());
    if let Some(mut file) = json {
        let text = serde_json::to_string_pretty(&report.json()?)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .context("write the JSON file")?;
    }
    Ok(if report.is_complete() { Outcome::Good } else { Outcome::Incomplete })
}
