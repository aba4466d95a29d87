//! What Prometheus costs: one `GET /metrics`, in time, bytes and the agent's CPU.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Agent;
use serde::Serialize;

use crate::cpu;
use crate::stage::Stage;
use crate::summary::Spread;

/// Workloads whose pairs an agent is given. They are more than the cap has room for.
pub(super) const WORKLOADS: u32 = 10_000;
/// Scrapes that count.
const TIMES: u32 = 20;

/// Of one agent. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scrape {
    /// Series of pairs of source and destination.
    pub pair_series: u64,
    /// How many of them there may be.
    pub max_series: u64,
    /// All series.
    pub series: u64,
    /// The answer's body.
    pub bytes: u64,
    /// Until all of it was read.
    pub millis: Spread,
    /// The agent's CPU for one: the mean, for some of it is paid after the answer.
    pub cpu_millis: f64,
}

impl Scrape {
    /// Of the client's agent as it is.
    pub(super) fn measure(stage: &Stage) -> Result<Self> {
        let agent = stage.lab().agent("a");
        let pid = agent.pid().context("an agent that does not run")?;
        let cgroup = cpu::cgroup_of(pid)?;
        let text = agent.metrics()?;
        let (before, mut times) = (cpu::cgroup_usage(&cgroup)?, Vec::new());
        for _ in 0..TIMES {
            let start = Instant::now();
            agent.metrics()?;
            times.push(start.elapsed());
        }
        let used = cpu::cgroup_usage(&cgroup)?.saturating_sub(before);
        Self::of(&text, &times, used)
    }

    /// Of the same with pairs of [`WORKLOADS`] workloads. Starts it anew.
    pub(super) fn of_many(stage: &mut Stage) -> Result<Self> {
        let pairs = format!("WEFT_BENCH_PAIRS={WORKLOADS}");
        let launch = |agent: &Agent| agent.launch_under(&["env", &pairs]);
        stage.relaunch_agents(launch)?;
        let scrape = Self::measure(stage)?;
        let (used, max) = (scrape.pair_series, scrape.max_series);
        // With no room for one more with its histograms.
        ensure!(used <= max && used > max - max / 10, "{used} series of pairs, of {max} that there may be");
        Ok(scrape)
    }

    fn of(text: &str, times: &[Duration], cpu: Duration) -> Result<Self> {
        let gauge = |name: &str| -> Result<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no {name}"))
        };
        let series = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).count();
        Ok(Self {
            pair_series: gauge("weft_metric_series")?,
            max_series: gauge("weft_metric_max_series")?,
            series: series as u64,
            bytes: text.len() as u64,
            millis: Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3)),
            cpu_millis: cpu.as_secs_f64() * 1e3 / times.len().max(1) as f64,
        })
    }

    /// Share of a core, where it is scraped so often.
    pub(super) fn share(&self, every: Duration) -> f64 {
        self.cpu_millis / 1e3 / every.as_secs_f64()
    }
}

#[cfg(test)]
mod tests;
