//! The suite of observability: what metrics and access lines cost those who pay for them, the agents.
//!
//! ```text
//!   stage, agents with a switch ─▶ connections without end ──────────────────────────────────────▶ scrapes ─▶ report
//!                                  off  metrics  line  line  metrics  off   off  metrics  …
//!                                  └───────────── round 1 ─────────────┘    └ round 2
//!   ratio of a round: CPU per connection of its two slices to that of the two that are off     noise: last off to first
//! ```
//!
//! `off`: agents count no connection and ask the kernel of none; `metrics`: as they are; `line`: that, and a line in JSON
//! for each connection, which somebody reads. It is one agent process and one client throughout, and slices are short: what
//! others do to the machine is the same for all of a round. Of direct connections the same is told, one after the other, and
//! held to nothing.
//!
//! Invariants: what counts is CPU of the agents' processes, never time on the clock; slices are proved to be what they are
//! called, by what was counted and by how many lines there were. Not here: what the hooks count for themselves, which nothing
//! switches off, and what who reads the lines does with them.

mod lines;
mod modes;
pub mod report;
mod scrape;
mod slices;

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context, Result};

use crate::cli::ObserveOptions;
use crate::cpu::MachineTime;
use crate::datapath::require_programs;
use crate::neighbours::{self, Neighbours};
use crate::report::Outcome;
use crate::stage::Stage;
use crate::works::{Kind, Path, Work};
use modes::{Mode, Modes};
use report::{Figures, Report};
use scrape::Scrape;
use slices::Taken;

/// Programs of the system that the stage needs, beside what a lab needs.
const PROGRAMS: [&str; 2] = ["iperf3", "nginx"];
/// As many at once as keep both agents busy.
const WORK: Work = Work { kind: Kind::Connect, width: 8 };
/// One half of a round across nodes; the other is the same backwards.
const CARRIED: [Mode; 3] = [Mode::Off, Mode::Metrics, Mode::Line];

/// Everything that was measured.
#[derive(Debug)]
pub struct Measured {
    /// Across nodes, in the modes of [`CARRIED`].
    carried: Taken,
    /// Within a node, before anybody wanted lines, and then: the kernel tells the agent of each end as long as they are wanted.
    direct: [Taken; 2],
    /// `/metrics` of an agent with some pairs, and of one with as many as there may be.
    scrapes: [Scrape; 2],
    /// CPU of the machine while connections were made.
    machine: MachineTime,
    /// CPU seconds of others meanwhile.
    others: f64,
}

/// Runs the suite; how it came out.
pub fn run(options: &ObserveOptions) -> Result<Outcome> {
    require_programs(&PROGRAMS, "")?;
    let json = options.json.as_ref().map(|path| -> Result<File> {
        File::create(path).with_context(|| format!("write {}", path.display()))
    });
    let json = json.transpose()?;
    let idle_share = neighbours::idle_sample()?;
    let mut stage = Stage::start(options.pin, true, false)?;
    let measured = measure(&mut stage, options);
    if let Err(error) = &measured {
        eprintln!("{}", stage.lab().report(&format!("{error:#}")));
    }
    let stopped = stage.stop().context("take the lab away");
    let figures = measured.map(|measured| Figures::of(&measured));
    let report = Report::new(options, idle_share, figures.map_err(|error| format!("{error:#}")))?;
    print!("{}", report.table());
    if let Some(mut file) = json {
        let text = serde_json::to_string_pretty(&report.json())?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .context("write the JSON file")?;
    }
    stopped?;
    Ok(report.outcome())
}

fn measure(stage: &mut Stage, options: &ObserveOptions) -> Result<Measured> {
    let mut neighbours = Neighbours::of(stage.lab().place().cgroup()?)?;
    let modes = Modes::start(stage)?;
    let (rounds, slice) = (options.round_count(), options.slice());
    // Tunnels, caches, the first look-ups.
    slices::take(stage, &modes, Path::CrossNode, &CARRIED, 1, slice).context("warm-up")?;
    let (others, machine) = (neighbours.time(), MachineTime::now()?);
    let direct = |mode| slices::take(stage, &modes, Path::SameNode, &[mode], rounds.div_ceil(4), slice);
    let counted = direct(Mode::Metrics)?;
    modes.want_lines(stage)?;
    let carried = slices::take(stage, &modes, Path::CrossNode, &CARRIED, rounds, slice)?;
    carried.verify(&CARRIED)?;
    let told = direct(Mode::Line)?;
    let machine = MachineTime::now()?.since(machine);
    let others = (neighbours.time() - others).max(0.0);
    let few = Scrape::measure(stage).context("scrape an agent")?;
    drop(modes);
    let full = Scrape::of_many(stage).context("scrape an agent with many pairs")?;
    Ok(Measured { carried, direct: [counted, told], scrapes: [few, full], machine, others })
}
