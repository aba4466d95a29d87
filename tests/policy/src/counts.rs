//! What a node's kernel has counted, between two looks.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lab::Agent;

/// A look at the counters of one agent's kernel half.
#[derive(Debug)]
pub struct Counts<'a> {
    agent: &'a Agent,
    then: BTreeMap<String, u64>,
}

impl<'a> Counts<'a> {
    /// Looks.
    pub fn of(agent: &'a Agent) -> Result<Self> {
        Ok(Self { agent, then: look(agent)? })
    }

    /// How much has come since: an event (`admitted`, `steered_plaintext` …) or a reason (`plaintext`, `spoofed_source` …).
    pub fn since(&self, word: &str) -> Result<u64> {
        let at = |counts: &BTreeMap<String, u64>| counts.get(word).copied().unwrap_or(0);
        Ok(at(&look(self.agent)?).saturating_sub(at(&self.then)))
    }

    /// Exactly so much has come of each.
    pub fn ensure(&self, wanted: &[(&str, u64)]) -> Result<()> {
        for (word, count) in wanted {
            let found = self.since(word)?;
            ensure!(found == *count, "{word} was counted {found} times, not {count}: {:?}", self.all()?);
        }
        Ok(())
    }

    /// Whatever has come since.
    pub fn all(&self) -> Result<BTreeMap<String, u64>> {
        let now = look(self.agent)?.into_iter();
        let came = now.map(|(word, count)| {
            let before = self.then.get(&word).copied().unwrap_or(0);
            (word, count.saturating_sub(before))
        });
        Ok(came.filter(|(_, count)| *count > 0).collect())
    }
}

fn look(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    const NAMES: [&str; 2] = ["weft_kernel_events_total{event=\"", "weft_kernel_refused_total{reason=\""];
    let text = agent.metrics()?;
    let read = |line: &str| {
        let rest = NAMES.iter().find_map(|name| line.strip_prefix(name))?;
        let (word, value) = rest.split_once("\"} ")?;
        Some((word.to_owned(), value.trim().parse::<f64>().ok()? as u64))
    };
    Ok(text.lines().filter_map(read).collect())
}
