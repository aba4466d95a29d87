//! What an agent needs of memory: idle, for each idle connection, at its highest, and in the kernel's maps.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Agent;
use serde::Serialize;

use crate::maps;
use crate::proof::Seen;
use crate::stage::{ECHO_PORT, Side, Stage};
use crate::window::Measure;
use crate::works::Path;

/// Idle connections that are held.
const CONNECTIONS: u64 = 2_000;
/// Opening them takes a second; a slow machine may take longer.
const OPENING: Duration = Duration::from_secs(30);
/// How long the agents are left alone until their memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Before the works.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    rss: u64,
    per_connection: f64,
}

/// The row of the report. Sizes in bytes; of two agents the larger.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// Resident memory of an agent with three pods and no connection.
    pub idle_rss_bytes: u64,
    /// Resident memory of both agents that each of 2,000 idle connections adds.
    pub per_idle_connection_bytes: f64,
    /// Highest resident memory of an agent in the whole run.
    pub peak_rss_bytes: u64,
    /// Kernel memory of an agent's pinned maps.
    pub map_bytes: u64,
}

impl Idle {
    /// Measured on agents that have done nothing yet: later their allocators hold memory that they could use again.
    pub fn measure(stage: &Stage) -> Result<Self> {
        thread::sleep(SETTLE);
        let before = resident(stage, "VmRSS")?;
        let [client, server] = stage.agents(Path::CrossNode);
        let seen = Seen::now(client, server)?;
        let pair = stage.pair(Side::Weft)?;
        let to = format!("{}:{ECHO_PORT}", pair.address(Path::CrossNode)?);
        let (load, count) = (stage.load_program()?, CONNECTIONS.to_string());
        let mut holder = stage
            .on_client_core(|| pair.client.spawn([&load, "idle", "--to", &to, "--connections", &count]))?;
        let opened = lab::eventually(OPENING, || {
            if holder.stdout_so_far().contains("ready") {
                return Ok(Ok(()));
            }
            if holder.is_running() {
                Err("not all are open".to_owned())
            } else {
                Ok(Err(holder.failure_report()))
            }
        });
        if let Err(report) = opened.context("open idle connections")? {
            bail!("open idle connections: {report}");
        }
        let bytes = CONNECTIONS * 2 * crate::load::MESSAGE as u64;
        let measure = Measure {
            units: CONNECTIONS as f64,
            seconds: 1.0,
            bytes,
            connections: CONNECTIONS,
            p50_us: None,
            p99_us: None,
        };
        seen.verify(client, server, Path::CrossNode, &measure)?;
        thread::sleep(SETTLE);
        let after = resident(stage, "VmRSS")?;
        holder.kill();
        let grown = after.iter().sum::<u64>().saturating_sub(before.iter().sum());
        let rss = before.into_iter().max().unwrap_or_default();
        Ok(Self { rss, per_connection: grown as f64 / CONNECTIONS as f64 })
    }

    /// After the works.
    pub fn finish(self, stage: &Stage) -> Result<Memory> {
        let peak = resident(stage, "VmHWM")?.into_iter().max().unwrap_or_default();
        let nodes = stage.lab().nodes().iter();
        let maps = nodes.map(|node| maps::pinned(&stage.lab().place().bpffs(node.name())));
        let maps: Vec<Vec<maps::PinnedMap>> = maps.collect::<Result<_>>()?;
        let bytes = |maps: &Vec<maps::PinnedMap>| maps.iter().map(|map| map.bytes).sum();
        Ok(Memory {
            idle_rss_bytes: self.rss,
            per_idle_connection_bytes: self.per_connection,
            peak_rss_bytes: peak,
            map_bytes: maps.iter().map(bytes).max().unwrap_or_default(),
        })
    }
}

/// A line of each agent's `/proc/PID/status`, in bytes.
fn resident(stage: &Stage, line: &str) -> Result<Vec<u64>> {
    stage.lab().agents().iter().map(|agent| status_bytes(agent, line)).collect()
}

/// A line of one agent's.
pub fn status_bytes(agent: &Agent, name: &str) -> Result<u64> {
    let pid = agent.pid().with_context(|| format!("the agent of node {} does not run", agent.node()))?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(number.with_context(|| format!("no {name} in the status of {pid}"))? * 1024)
}
