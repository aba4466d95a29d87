//! Off, with metrics, and with a line for each connection: what the agents are told, and knowing that they do it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Agent;
use nix::sys::signal::Signal;

use super::lines::Lines;
use crate::stage::Stage;

/// How long an agent may take to do as it is told.
const PATIENCE: Duration = Duration::from_secs(20);
/// Lines come at most a tenth of a second late, on a machine that has time.
const LATE: Duration = Duration::from_millis(500);
/// How often it is looked whether they still come.
const LOOKS: u32 = 20;
/// The file that says so to the controller.
const FILE: &str = "bench-observe.yaml";
/// Has an agent switch metrics at a signal (`mesh-agent/src/metrics/bench.rs`).
const SWITCH: &str = "WEFT_BENCH_METRICS=switch";

/// What agents do of each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Neither count it nor write a line.
    Off,
    /// Count it.
    Metrics,
    /// Count it and write a line.
    Line,
}

/// The agents, and who reads what they write.
#[derive(Debug)]
pub(super) struct Modes {
    readers: Vec<Lines>,
}

impl Modes {
    /// Starts the agents anew, with a switch and a reader each.
    pub(super) fn start(stage: &mut Stage) -> Result<Self> {
        let directory = stage.lab().place().dir();
        let agents = stage.lab().agents().iter();
        let readers = agents.map(|agent| Lines::read(&directory.join(format!("access-{}", agent.node()))));
        let readers: Vec<Lines> = readers.collect::<Result<_>>()?;
        let mut pipes = readers.iter();
        stage.relaunch_agents(|agent| {
            let pipe = pipes.next().with_context(|| format!("no pipe for the agent of {}", agent.node()))?;
            let pipe = pipe.path().to_str().context("a path that is not UTF-8")?;
            // The shell becomes the agent.
            agent.launch_under(&["env", SWITCH, "sh", "-c", "exec \"$@\" >\"$0\"", pipe])
        })?;
        Ok(Self { readers })
    }

    /// Has lines of all connections in force, and waits until they are.
    pub(super) fn want_lines(&self, stage: &Stage) -> Result<()> {
        let text = "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n\
                    spec: {accessLog: {mode: All, format: json}}\n";
        stage.lab().write_object(FILE, text)?;
        stage.lab().agents().iter().try_for_each(|agent| {
            lab::eventually(PATIENCE, || writes_all(agent))
                .with_context(|| format!("access lines of node {}", agent.node()))
        })
    }

    /// Has all agents do so from now on; lines are only written once they are [wanted](Self::want_lines).
    pub(super) fn to(&self, stage: &Stage, mode: Mode) -> Result<()> {
        let signal = match mode {
            Mode::Off => Signal::SIGUSR2,
            Mode::Metrics => Signal::SIGUSR1,
            Mode::Line => Signal::SIGHUP,
        };
        stage.lab().agents().iter().try_for_each(|agent| agent.signal(signal))
    }

    /// Lines of all agents so far.
    pub(super) fn lines(&self) -> u64 {
        self.readers.iter().map(Lines::count).sum()
    }

    /// Lines since then, once no more come.
    pub(super) fn lines_since(&self, before: u64) -> Result<u64> {
        let mut last = self.lines();
        for _ in 0..LOOKS {
            thread::sleep(LATE);
            let now = self.lines();
            if now == last {
                return Ok(now - before);
            }
            last = now;
        }
        bail!("access lines go on coming: {last}")
    }
}

/// That an agent says of itself that lines of all connections are in force.
fn writes_all(agent: &Agent) -> Result<(), String> {
    let config = agent.admin("/v1/config").map_err(|error| format!("{error:#}"))?;
    let rows = config["settings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = rows.iter().find(|row| row["name"] == "access_log.mode");
    match row.and_then(|row| row["value"].as_str()) {
        Some(word) if word.eq_ignore_ascii_case("All") => Ok(()),
        other => Err(format!("it is {other:?}")),
    }
}
