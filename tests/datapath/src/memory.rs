//! How much memory a process of the mesh holds.

use anyhow::{Context, Result};
use lab::Lab;

/// Resident memory of all agents together, in bytes (`VmRSS`, proc(5)).
pub fn of_agents(lab: &Lab) -> Result<u64> {
    lab.agents().iter().map(|agent| resident(agent.pid().context("the agent does not run")?)).sum()
}

fn resident(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
