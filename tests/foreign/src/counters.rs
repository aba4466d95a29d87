//! An agent's counters, summed over the labels that a row does not ask about.

use std::time::Duration;

use anyhow::{Context, Result};
use lab::Agent;

/// The sum of all samples of a metric that have these labels.
pub fn sum(agent: &Agent, metric: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let text = agent.metrics()?;
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let sample = |line: &str| {
        let (name, rest) = line.split_once('{')?;
        let (found, value) = rest.rsplit_once('}')?;
        let all = name == metric && wanted.iter().all(|label| found.split(',').any(|one| one == label));
        if all { value.trim().parse::<f64>().ok() } else { None }
    };
    Ok(text.lines().filter_map(sample).sum())
}

/// Does something that has to move a counter by one, and no more.
pub fn moved<T>(
    agent: &Agent,
    metric: &str,
    labels: &[(&str, &str)],
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let before = sum(agent, metric, labels)?;
    let done = act()?;
    lab::eventually(Duration::from_secs(5), || match sum(agent, metric, labels) {
        Ok(now) if now == before + 1.0 => Ok(()),
        other => Err(format!("{other:?} after {before}")),
    })
    .with_context(|| format!("{metric} with {labels:?} moves by one"))?;
    Ok(done)
}
