//! Counters of an agent, added up over the labels that a test does not care for.

use anyhow::Result;
use lab::Agent;

/// The sum of all samples of a metric whose labels include `label` (`what="hook"`, or nothing).
pub fn total(agent: &Agent, metric: &str, label: &str) -> Result<u64> {
    let text = agent.metrics()?;
    let samples = text.lines().filter(|line| {
        line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    });
    let values = samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}

/// Repairs of one kind: `hook`, `listener`, `map_entry`, `address`.
pub fn repairs(agent: &Agent, what: &str) -> Result<u64> {
    total(agent, "weft_repairs_total", &format!("what=\"{what}\""))
}
