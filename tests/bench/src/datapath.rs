//! The suite: stage, rounds, rows.
//!
//! ```text
//!   idle machine ─▶ stage ─▶ idle memory ─▶ [path × work: warm-up, rounds of (direct, weft, yardstick)] ─▶ peak memory ─▶ report
//! ```
//!
//! A round that fails is told and repeated once; if that fails too its row has no figures and the run ends with failure.
//! All other rows are still measured.

use std::fs::File;
use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::cli::Options;
use crate::memory::Idle;
use crate::neighbours::{self, Neighbours};
use crate::proof::Seen;
use crate::report::{Conditions, MemoryRow, Outcome, Report, Row};
use crate::stage::{Side, Stage};
use crate::summary::{Figures, Round};
use crate::window::{self, Window};
use crate::works::{Path, Work};
use crate::yardstick;

/// Programs of the system that the works need, beside what a lab needs.
const PROGRAMS: [&str; 4] = ["iperf3", "nginx", "wrk", "bpftool"];
/// What `--yardstick` needs beside them.
const YARDSTICK_PROGRAMS: [&str; 1] = [yardstick::PROGRAM];

/// Runs the suite; how it came out.
pub fn run(options: &Options) -> Result<Outcome> {
    if options.yardstick && !options.paths.contains(&Path::CrossNode) {
        bail!("--yardstick measures the path cross-node, which --paths leaves out");
    }
    require_programs(&PROGRAMS, "")?;
    if options.yardstick {
        require_programs(&YARDSTICK_PROGRAMS, " (for --yardstick)")?;
    }
    // Before anything is measured: twenty minutes for a file that cannot be written would be a pity.
    let json = options.json.as_ref().map(|path| -> Result<File> {
        File::create(path).with_context(|| format!("write {}", path.display()))
    });
    let json = json.transpose()?;
    let idle_share = neighbours::idle_sample()?;
    let mut stage = Stage::start(options.pin, !options.calibrate, options.yardstick)?;
    let measured = measure(&mut stage, options);
    if let Some(failure) = failure(&measured).filter(|_| stage.with_mesh()) {
        eprintln!("{}", stage.lab().report(&failure));
    }
    let yardstick = stage.yardstick().map(|one| format!("{} {}", yardstick::PROGRAM, one.version()));
    let stopped = stage.stop().context("take the lab away");
    let (rows, memory) = measured?;
    let report = Report::new(Conditions::of(options, idle_share, yardstick)?, rows, memory);
    print!("{}", report.table(crate::report::coloured()));
    if let Some(mut file) = json {
        let text = serde_json::to_string_pretty(&report.json())?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .context("write the JSON file")?;
    }
    stopped?;
    Ok(report.outcome())
}

fn measure(stage: &mut Stage, options: &Options) -> Result<(Vec<Row>, Option<MemoryRow>)> {
    let mut neighbours = Neighbours::of(stage.lab().place().cgroup()?)?;
    let idle = stage.with_mesh().then(|| twice("idle memory", || Idle::measure(stage)));
    let mut rows = Vec::new();
    for &path in &options.paths {
        for &work in &options.works {
            let figures = measure_row(stage, options, path, work, &mut neighbours);
            let row = Row { path, work, figures: figures.map_err(|error| format!("{error:#}")) };
            eprintln!("{}", row.progress());
            rows.push(row);
        }
    }
    let memory =
        idle.map(|idle| MemoryRow(idle.and_then(|idle| idle.finish(stage)).map_err(|e| format!("{e:#}"))));
    Ok((rows, memory))
}

fn measure_row(
    stage: &mut Stage,
    options: &Options,
    path: Path,
    work: Work,
    neighbours: &mut Neighbours,
) -> Result<Figures> {
    let seconds = options.window_seconds();
    let mut rounds = Vec::new();
    // Round 0 is the warm-up: tunnels, caches, the congestion control's memory of the path.
    for number in 0..=options.round_count() {
        let round = match measure_round(stage, path, work, seconds, neighbours) {
            Ok(round) => round,
            Err(error) => {
                eprintln!("{path} {work}, round {number}, is repeated: {error:#}");
                stage.restart_servers()?;
                measure_round(stage, path, work, seconds, neighbours)
                    .with_context(|| format!("round {number} failed twice"))?
            }
        };
        if number > 0 {
            rounds.push(round);
        }
    }
    Ok(Figures::of(work, &rounds))
}

fn measure_round(
    stage: &Stage,
    path: Path,
    work: Work,
    seconds: u32,
    neighbours: &mut Neighbours,
) -> Result<Round> {
    let mut on = |side| measure_window(stage, side, path, work, seconds, neighbours);
    let direct = on(Side::Direct).context("direct")?;
    let weft = on(Side::Weft).context("weft")?;
    let with_yardstick = stage.yardstick().is_some() && path == Path::CrossNode;
    let yardstick = with_yardstick.then(|| on(Side::Yardstick).context("yardstick")).transpose()?;
    Ok(Round { direct, weft, yardstick })
}

/// One window, with the proof that it went the way that its side stands for.
fn measure_window(
    stage: &Stage,
    side: Side,
    path: Path,
    work: Work,
    seconds: u32,
    neighbours: &mut Neighbours,
) -> Result<Window> {
    let pair = stage.pair(side)?;
    let mut run = || window::run(stage, pair, path, work, seconds, neighbours);
    if !stage.with_mesh() {
        return run();
    }
    let [client, server] = stage.agents(path);
    let before = Seen::now(client, server)?;
    let yardstick = stage.yardstick().filter(|_| side == Side::Yardstick);
    let counters = yardstick.map(|yardstick| yardstick.counters()).transpose()?;
    let window = run()?;
    if let Some((yardstick, counters)) = yardstick.zip(counters) {
        yardstick.verify(counters, &window.measure)?;
    }
    match side {
        Side::Weft => before.verify(client, server, path, &window.measure)?,
        // That the pods outside were not touched is part of every look.
        Side::Direct | Side::Yardstick => Seen::now(client, server).map(drop)?,
    }
    Ok(window)
}

/// The first thing that failed.
fn failure(measured: &Result<(Vec<Row>, Option<MemoryRow>)>) -> Option<String> {
    match measured {
        Err(error) => Some(format!("{error:#}")),
        Ok((rows, memory)) => {
            let row = rows.iter().find_map(|row| row.figures.as_ref().err());
            row.or_else(|| memory.as_ref()?.0.as_ref().err()).cloned()
        }
    }
}

pub(crate) fn twice<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    attempt().or_else(|error| {
        eprintln!("{what} is measured again: {error:#}");
        attempt()
    })
}

pub(crate) fn require_programs(programs: &[&str], what_for: &str) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories: Vec<&str> = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]).collect();
    let there =
        |name: &str| directories.iter().any(|directory| std::path::Path::new(directory).join(name).is_file());
    let missing: Vec<&str> = programs.iter().copied().filter(|name| !there(name)).collect();
    if !missing.is_empty() {
        bail!("not installed: {}{what_for}; run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}
