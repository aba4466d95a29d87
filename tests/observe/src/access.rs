//! The access log of the lab's agents, which is in the log of each agent's process with what it says of itself.
//!
//! Invariant: a reading begins at a mark, so that what was logged before has no say.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use lab::Lab;
use serde_json::Value;

/// One agent's log, from a mark on.
#[derive(Clone, Debug)]
pub struct AccessLog {
    path: PathBuf,
    from: usize,
}

impl AccessLog {
    /// From now on.
    pub fn of(lab: &Lab, node: &str) -> Result<Self> {
        let mut log = Self { path: lab.place().logs().join(format!("agent-{node}.log")), from: 0 };
        log.mark()?;
        Ok(log)
    }

    /// Forgets what there is.
    pub fn mark(&mut self) -> Result<()> {
        self.from = usize::try_from(fs::metadata(&self.path)?.len())?;
        Ok(())
    }

    /// Everything since the mark, up to the last whole line.
    pub fn text(&self) -> Result<String> {
        let bytes = fs::read(&self.path).with_context(|| format!("read {}", self.path.display()))?;
        let text = String::from_utf8_lossy(bytes.get(self.from..).unwrap_or_default()).into_owned();
        Ok(text.rfind('\n').map(|end| text[..=end].to_owned()).unwrap_or_default())
    }

    /// Its lines as JSON. What the agent says of itself is text in a lab.
    pub fn rows(&self) -> Result<Vec<Value>> {
        let text = self.text()?;
        let lines = text.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
    }
}
