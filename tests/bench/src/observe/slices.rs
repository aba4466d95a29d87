//! Connections without end, and what the agents used in each slice of that time.
//!
//! ```text
//!   client: connect, connect, connect …   ─▶ ActiveOpens of its network namespace ┐ read at each end of a slice,
//!   agents: CPU of their cgroups ──────────────────────────────────────────────────┘ then the next mode is told
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::WORK;
use super::modes::{Mode, Modes};
use crate::cpu;
use crate::load::LoadReport;
use crate::proof::Seen;
use crate::stage::{CLOSE_PORT, Pair, Side, Stage};
use crate::works::Path;

/// How much longer the client goes on than slices should take.
const SPARE: Duration = Duration::from_secs(3);
/// How long it may take to end beyond that.
const GRACE: Duration = Duration::from_secs(20);
/// What was counted may differ so much from what is expected: a mode comes a little late, and goes a little late.
const TOLERANCE: f64 = 0.10;

/// A part of the time, or several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slice {
    /// Of both agents.
    pub(super) cpu: Duration,
    /// That the client began.
    pub(super) connections: u64,
    /// How long.
    pub(super) time: Duration,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    /// Slices of each round: the modes, and back.
    pub(super) rounds: Vec<Vec<Slice>>,
    /// Connections that agents counted as carried: the client's, and the server's.
    pub(super) counted: [f64; 2],
    /// Access lines.
    pub(super) lines: u64,
}

/// What was read at the end of a slice.
#[derive(Clone, Copy, Debug)]
struct Mark {
    cpu: Duration,
    connections: u64,
    at: Instant,
}

/// Has connections made for so many rounds, from one mode to the next and back.
pub(super) fn take(
    stage: &Stage,
    modes: &Modes,
    path: Path,
    order: &[Mode],
    rounds: u32,
    slice: Duration,
) -> Result<Taken> {
    let pair = stage.pair(Side::Weft)?;
    let [client, server] = stage.agents(path);
    let there_and_back = || order.iter().chain(order.iter().rev());
    let total = slice * rounds * there_and_back().count() as u32 + SPARE;
    let to = format!("{}:{CLOSE_PORT}", pair.address(path)?);
    let (load, width) = (stage.load_program()?, WORK.width.to_string());
    let seconds = total.as_secs_f64().to_string();
    let words = [&load, "connect", "--to", &to, "--threads", &width, "--seconds", &seconds];

    modes.to(stage, Mode::Off)?;
    let (seen, lines) = (Seen::now(client, server)?, modes.lines());
    let process = stage.on_client_core(|| pair.client.spawn(words))?;
    thread::sleep(SPARE / 6);
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let mut round = Vec::new();
        for mode in there_and_back() {
            modes.to(stage, *mode)?;
            let before = Mark::now(pair)?;
            thread::sleep(slice);
            round.push(Mark::now(pair)?.since(before));
        }
        taken.push(round);
    }
    modes.to(stage, Mode::Off)?;
    let report: LoadReport = process.wait(total + GRACE)?.ok()?.json()?;
    let made: u64 = taken.iter().flatten().map(|slice| slice.connections).sum();
    ensure!(
        report.count >= made,
        "the client tells of {} connections, its namespace of {made}",
        report.count
    );
    let lines = modes.lines_since(lines)?;
    let counted = Seen::now(client, server)?.tunnelled_since(&seen);
    Ok(Taken { rounds: taken, counted, lines })
}

impl Mark {
    fn now(pair: &Pair) -> Result<Self> {
        let text = pair.client.netns_thread(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
        let connections = active_opens(&text).context("no ActiveOpens in the client's namespace")?;
        Ok(Self { cpu: cpu::usage(&pair.relays)?, connections, at: Instant::now() })
    }

    fn since(self, earlier: Self) -> Slice {
        Slice {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            connections: self.connections - earlier.connections,
            time: self.at - earlier.at,
        }
    }
}

/// Of `/proc/net/snmp`: a line of names, and one of numbers.
fn active_opens(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let place = lines.next()?.split(' ').position(|name| name == "ActiveOpens")?;
    lines.next()?.split(' ').nth(place)?.parse().ok()
}

impl Slice {
    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            connections: self.connections + other.connections,
            time: self.time + other.time,
        }
    }

    /// Agents' CPU in us/connection.
    pub(super) fn cpu_us(self) -> f64 {
        WORK.kind.cost(self.cpu.as_secs_f64(), self.connections as f64)
    }

    /// Connections a second.
    pub(super) fn rate(self) -> f64 {
        self.connections as f64 / self.time.as_secs_f64()
    }
}

impl Taken {
    /// The slices of a mode in each round, by its place in the order.
    pub(super) fn of(&self, place: usize) -> impl Iterator<Item = Slice> + Clone {
        self.rounds.iter().filter_map(move |round| {
            let back = round.len().checked_sub(1 + place)?;
            Some(round.get(place)?.and(*round.get(back)?))
        })
    }

    /// Connections of a mode.
    pub(super) fn connections(&self, place: usize) -> f64 {
        self.of(place).map(|slice| slice.connections).sum::<u64>() as f64
    }

    /// That what was counted and written is what the modes stand for.
    pub(super) fn verify(&self, order: &[Mode]) -> Result<()> {
        let of = |which: fn(Mode) -> bool| -> f64 {
            let places = order.iter().enumerate().filter(|(_, mode)| which(**mode));
            places.map(|(place, _)| self.connections(place)).sum()
        };
        let (counted, written) = (of(|mode| mode != Mode::Off), of(|mode| mode == Mode::Line));
        for (agent, found) in ["client", "server"].into_iter().zip(self.counted) {
            near(found, counted, &format!("connections counted by the agent of the {agent}"))?;
        }
        // One at each agent.
        near(self.lines as f64, 2.0 * written, "access lines")
    }
}

fn near(found: f64, wanted: f64, what: &str) -> Result<()> {
    let is_near = (found - wanted).abs() <= TOLERANCE * wanted;
    ensure!(is_near, "{found} {what}, about {wanted} are expected: it was not switched as it should be");
    Ok(())
}

#[cfg(test)]
mod tests;
