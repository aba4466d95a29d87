//! The suite of policies: what a full world costs connections that no agent carries, and their node.
//!
//! ```text
//!   stage, other nodes' agents ─▶ warm-up ─▶ empty ─▶ full ─▶ empty ─▶ full ─▶ … ─▶ empty ─▶ report
//!                                            └ works  └ works └ works
//!   a round: a full world and the empty ones before and after it
//!   ratio:   full to the mean of the two             noise: the second to the first
//! ```
//!
//! Client and server are of one node. The full world ([`world`]) is 10,000 pods of other nodes and 1,000 policies, some about
//! the server; it comes and goes as files in the directory that the controller follows. What is measured begins when every
//! policy is in force and nobody is busy with the change.
//!
//! Invariants: each window is proved to have gone directly; the node's own word says that the policies are in force (and
//! that they are gone). Not here: the cost of a change to the controller ([`crate::control`]).

pub mod fleet;
pub mod report;
pub mod switch;
pub mod world;

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context, Result};

use crate::cli::PolicyOptions;
use crate::datapath::{require_programs, twice};
use crate::neighbours::{self, Neighbours};
use crate::proof::Seen;
use crate::report::Outcome;
use crate::stage::{Side, Stage};
use crate::window::{self, Window};
use crate::works::{Path, Work};
use report::{Figures, Report};
use switch::{Cost, Switch, Taken};
use world::FullWorld;

/// Programs of the system that the stage and the figures need, beside what a lab needs.
const PROGRAMS: [&str; 3] = ["iperf3", "nginx", "bpftool"];

/// A window of each work, in their order.
pub type Block = Vec<Window>;

/// Everything that was measured.
#[derive(Debug)]
pub struct Measured {
    /// One more than rounds.
    pub empty: Vec<Block>,
    /// One for each round.
    pub full: Vec<Block>,
    /// One for each round.
    pub taken: Vec<Taken>,
    /// Before the world was ever full.
    pub before: Cost,
    /// In the first full world.
    pub filled: Cost,
    /// At the end, in an empty world.
    pub after: Cost,
}

/// Runs the suite; how it came out.
pub fn run(options: &PolicyOptions) -> Result<Outcome> {
    require_programs(&PROGRAMS, "")?;
    let json = options.json.as_ref().map(|path| -> Result<File> {
        File::create(path).with_context(|| format!("write {}", path.display()))
    });
    let json = json.transpose()?;
    let idle_share = neighbours::idle_sample()?;
    let stage = Stage::start(options.pin, true, false)?;
    let measured = measure(&stage, options);
    if let Err(error) = &measured {
        eprintln!("{}", stage.lab().report(&format!("{error:#}")));
    }
    let stopped = stage.stop().context("take the lab away");
    let figures = measured.map(|measured| Figures::of(&options.works, &measured));
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

fn measure(stage: &Stage, options: &PolicyOptions) -> Result<Measured> {
    let mut neighbours = Neighbours::of(stage.lab().place().cgroup()?)?;
    let world = FullWorld { workloads: options.workloads, policies: options.policies };
    let switch = Switch::new(stage, fleet::start(stage)?, world).context("the empty world")?;
    // Caches, and the hooks' first looks.
    block(stage, options, &mut neighbours).context("warm-up")?;
    let before = Cost::now(stage)?;
    let (mut filled, mut full, mut taken) = (None, Vec::new(), Vec::new());
    let mut empty = vec![block(stage, options, &mut neighbours)?];
    eprintln!("before   empty  {}", progress(options, &empty[0]));
    for round in 1..=options.round_count() {
        taken.push(switch.fill(stage)?);
        if filled.is_none() {
            filled = Some(Cost::now(stage)?);
        }
        let windows = block(stage, options, &mut neighbours).context("in the full world")?;
        eprintln!("round {round:<2} full   {}", progress(options, &windows));
        full.push(windows);
        switch.clear(stage)?;
        let windows = block(stage, options, &mut neighbours).context("in the empty world")?;
        eprintln!("         empty  {}", progress(options, &windows));
        empty.push(windows);
    }
    let filled = filled.context("no round")?;
    Ok(Measured { empty, full, taken, before, filled, after: Cost::now(stage)? })
}

/// One line, as soon as it is there.
fn progress(options: &PolicyOptions, windows: &[Window]) -> String {
    let told = options
        .works
        .iter()
        .zip(windows)
        .map(|(work, window)| format!("{work} {:.0} {}", window.figure(*work), work.figure_unit()));
    told.collect::<Vec<_>>().join("  ")
}

fn block(stage: &Stage, options: &PolicyOptions, neighbours: &mut Neighbours) -> Result<Block> {
    let seconds = options.window_seconds();
    let mut windows = Vec::new();
    for &work in &options.works {
        let once = |neighbours: &mut Neighbours| measure_window(stage, work, seconds, neighbours);
        windows.push(twice(&work.to_string(), || once(neighbours))?);
    }
    Ok(windows)
}

/// One window, with the proof that no agent carried anything.
fn measure_window(stage: &Stage, work: Work, seconds: u32, neighbours: &mut Neighbours) -> Result<Window> {
    let path = Path::SameNode;
    let [client, server] = stage.agents(path);
    let before = Seen::now(client, server)?;
    let window = window::run(stage, stage.pair(Side::Weft)?, path, work, seconds, neighbours)?;
    before.verify(client, server, path, &window.measure)?;
    Ok(window)
}
