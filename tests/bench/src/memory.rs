//! What an agent needs of memory: idle, for each idle connection, at its highest, and in the kernel's maps.

use std::path::Path as FilePath;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Agent;
use serde::Serialize;
use serde_json::Value;

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
        let maps = stage.lab().nodes().iter().map(|node| map_bytes(&stage.lab().place().bpffs(node.name())));
        let maps: Vec<u64> = maps.collect::<Result<_>>()?;
        Ok(Memory {
            idle_rss_bytes: self.rss,
            per_idle_connection_bytes: self.per_connection,
            peak_rss_bytes: peak,
            map_bytes: maps.into_iter().max().unwrap_or_default(),
        })
    }
}

/// A line of each agent's `/proc/PID/status`, in bytes.
fn resident(stage: &Stage, line: &str) -> Result<Vec<u64>> {
    stage.lab().agents().iter().map(|agent| status_bytes(agent, line)).collect()
}

fn status_bytes(agent: &Agent, name: &str) -> Result<u64> {
    let pid = agent.pid().with_context(|| format!("the agent of node {} does not run", agent.node()))?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(number.with_context(|| format!("no {name} in the status of {pid}"))? * 1024)
}

/// Memory that the kernel has set aside for all maps pinned below a directory.
fn map_bytes(directory: &FilePath) -> Result<u64> {
    let mut sum = 0;
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                sum += pinned_bytes(&entry.path())?.unwrap_or_default();
            }
        }
    }
    if sum == 0 {
        bail!("no map is pinned below {}", directory.display());
    }
    Ok(sum)
}

/// `None`: it is no map, but a program or link.
fn pinned_bytes(path: &FilePath) -> Result<Option<u64>> {
    let output = Command::new("bpftool").args(["-j", "map", "show", "pinned"]).arg(path).output();
    let output = output.context("bpftool does not start: run `cargo xtask setup`")?;
    let Ok(shown) = serde_json::from_slice::<Value>(&output.stdout) else { return Ok(None) };
    Ok(shown["bytes_memlock"].as_u64())
}
