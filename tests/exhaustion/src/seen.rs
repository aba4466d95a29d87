//! What an agent says: its metrics, its log, its table of pods.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lab::{Agent, Lab, Pod};
use serde_json::Value;

/// Sum of all samples of a metric that have all these labels (`reason="exhausted"`). 0 if there is none.
pub fn metric(agent: &Agent, name: &str, labels: &[&str]) -> Result<u64> {
    let text = agent.metrics()?;
    let samples = text.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or_default();
        (rest.starts_with('{') || rest.starts_with(' ')) && labels.iter().all(|label| rest.contains(label))
    });
    samples
        .map(|line| {
            let value = line.rsplit(' ').next().unwrap_or_default();
            value.parse::<f64>().map(|value| value as u64).with_context(|| line.to_owned())
        })
        .sum()
}

/// Connections that were refused for a reason, as the agent counts them.
pub fn refused(agent: &Agent, reason: &str) -> Result<u64> {
    metric(agent, "weft_connections_failed_total", &[&format!("reason=\"{reason}\"")])
}

/// Connections that the kernel refused for a reason.
pub fn kernel_refused(agent: &Agent, reason: &str) -> Result<u64> {
    metric(agent, "weft_kernel_refused_total", &[&format!("reason=\"{reason}\"")])
}

/// What an agent has logged so far. Without its access log, which has a line of each connection that was refused, however many.
pub fn log(lab: &Lab, node: &str) -> Result<String> {
    let path = lab.place().logs().join(format!("agent-{node}.log"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter(|line| !line.starts_with("time=")).flat_map(|line| [line, "\n"]).collect())
}

/// A pod's row in its agent's table.
pub fn row(lab: &Lab, pod: &Pod) -> Result<Option<Value>> {
    let rows = lab.agent(pod.node().name()).pods()?;
    Ok(rows.into_iter().find(|row| row["uid"] == pod.uid()))
}

/// What `weft-lab-peer burst` reports: `threads` connections from a pod at the same moment, `rounds` times.
pub fn burst(from: &Pod, to: SocketAddr, threads: usize, rounds: usize, silent: bool) -> Result<Value> {
    let (to, threads, rounds) = (to.to_string(), threads.to_string(), rounds.to_string());
    let mut words = vec!["weft-lab-peer", "burst", "--to", &to, "--threads", &threads, "--rounds", &rounds];
    if silent {
        words.push("--silent");
    }
    from.command(words)?.timeout(std::time::Duration::from_secs(60)).run()?.ok()?.json()
}

/// How many connections of a report were ended by a RST, at whatever step the client has noticed.
pub fn resets(report: &Value) -> u64 {
    let steps = ["connect:ECONNRESET", "write:ECONNRESET", "write:EPIPE", "read:ECONNRESET"];
    steps.iter().filter_map(|step| report["by"][step].as_u64()).sum()
}
