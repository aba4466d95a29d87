//! What an agent shows while it is attacked: its counters, its log, its memory and its descriptors.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Agent, Lab, eventually};

/// How long a counter or a line may take to appear.
const SOON: Duration = Duration::from_secs(10);

/// The sum of a metric's series that have all these labels.
pub fn metric(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
    let text = agent.metrics()?;
    let has = |series: &str| labels.iter().all(|(key, value)| series.contains(&format!("{key}=\"{value}\"")));
    let series = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let matching = series.filter(|(series, _)| (series.is_empty() || series.starts_with('{')) && has(series));
    Ok(matching.filter_map(|(_, value)| value.parse::<f64>().ok()).sum::<f64>() as u64)
}

/// A counter before something happens.
#[derive(Debug)]
pub struct Counter<'a> {
    agent: &'a Agent,
    name: &'static str,
    labels: Vec<(&'a str, &'a str)>,
    before: u64,
}

impl<'a> Counter<'a> {
    /// Handshakes with this result.
    pub fn handshakes(agent: &'a Agent, role: &'a str, result: &'a str) -> Result<Self> {
        Self::of(agent, "weft_tls_handshakes_total", &[("role", role), ("result", result)])
    }

    /// Refused connections with this reason.
    pub fn failed(agent: &'a Agent, direction: &'a str, reason: &'a str) -> Result<Self> {
        Self::of(agent, "weft_connections_failed_total", &[("direction", direction), ("reason", reason)])
    }

    /// Connections that began, and ended with this reason.
    pub fn closed(agent: &'a Agent, direction: &'a str, reason: &'a str) -> Result<Self> {
        Self::of(agent, "weft_connections_closed_total", &[("direction", direction), ("reason", reason)])
    }

    fn of(agent: &'a Agent, name: &'static str, labels: &[(&'a str, &'a str)]) -> Result<Self> {
        Ok(Self { agent, name, labels: labels.to_vec(), before: metric(agent, name, labels)? })
    }

    /// How far it has moved.
    pub fn moved(&self) -> Result<u64> {
        Ok(metric(self.agent, self.name, &self.labels)?.saturating_sub(self.before))
    }

    /// Waits until it has moved by at least so much.
    pub fn await_moved(&self, by: u64) -> Result<u64> {
        self.await_moved_within(by, SOON)
    }

    /// The same with another deadline.
    pub fn await_moved_within(&self, by: u64, deadline: Duration) -> Result<u64> {
        eventually(deadline, || {
            let moved = self.moved().map_err(|error| format!("{error:#}"))?;
            if moved >= by { Ok(moved) } else { Err(format!("moved by {moved} of {by}")) }
        })
        .with_context(|| format!("{}{:?} on {}", self.name, self.labels, self.agent.node()))
    }
}

/// An agent's log.
#[derive(Debug)]
pub struct Log(PathBuf);

impl Log {
    /// Of the agent of a node.
    pub fn of(lab: &Lab, node: &str) -> Self {
        Self(lab.place().logs().join(format!("agent-{node}.log")))
    }

    /// Waits for a line that has all these words.
    pub fn await_line(&self, words: &[&str]) -> Result<String> {
        eventually(SOON, || {
            let text = self.text().map_err(|error| format!("{error:#}"))?;
            let found = text.lines().rev().find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).ok_or_else(|| format!("no line with {words:?}"))
        })
    }

    /// How many lines have this word.
    pub fn lines_with(&self, word: &str) -> Result<usize> {
        Ok(self.text()?.lines().filter(|line| line.contains(word)).count())
    }

    fn text(&self) -> Result<String> {
        std::fs::read_to_string(&self.0).with_context(|| format!("read {}", self.0.display()))
    }
}

/// What an agent holds at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    /// Resident memory in bytes.
    pub memory: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

impl Holding {
    /// Of an agent, now.
    pub fn of(agent: &Agent) -> Result<Self> {
        let pid = agent.pid().context("the agent does not run")?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        Ok(Self { memory: kib << 10, descriptors })
    }

    /// How much more memory an agent holds now, in KiB, if that is no more than so many MiB.
    pub fn grown(self, agent: &Agent, mib: u64) -> Result<u64> {
        let grown = Self::of(agent)?.memory.saturating_sub(self.memory) >> 10;
        ensure!(grown <= mib << 10, "the agent's memory has grown by {grown} KiB, more than {mib} MiB");
        Ok(grown)
    }
}
