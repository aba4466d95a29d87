//! Thousands of connections that a process in a pod keeps open: `weft-lab-peer hold`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Pod, Process, eventually};
use serde_json::Value;

/// For opening them all, and for trying them all again.
const PATIENCE: Duration = Duration::from_secs(180);

/// The connections.
#[derive(Debug)]
pub struct Held {
    process: Process,
}

impl Held {
    /// Begins to open `connections` from a pod, in turn to all of `to`.
    pub fn start(pod: &Pod, to: &[SocketAddr], connections: usize) -> Result<Self> {
        let mut words = vec!["weft-lab-peer".to_owned(), "hold".into(), "--connections".into()];
        words.push(connections.to_string());
        words.extend(to.iter().flat_map(|to| ["--to".to_owned(), to.to_string()]));
        Ok(Self { process: pod.spawn(words)? })
    }

    /// What came of opening them, once all were tried.
    pub fn report(&mut self) -> Result<Value> {
        let process = &mut self.process;
        let said = eventually(PATIENCE, || match process.stdout_so_far() {
            said if said.contains('\n') => Ok(said),
            _ if !process.is_running() => Ok(String::new()),
            said => Err(format!("it has said {said:?}")),
        })?;
        serde_json::from_str(said.trim()).with_context(|| process.failure_report())
    }

    /// Fails unless all were opened and have answered. Says how long it took.
    pub fn all_open(&mut self, connections: usize) -> Result<String> {
        let report = self.report()?;
        ensure!(report["ok"] == connections && report["failed"] == 0, "{report}");
        let seconds = report["seconds"].as_f64().unwrap_or_default();
        Ok(format!("{connections} in {seconds:.1} s"))
    }

    /// Speaks on every one that was opened, and closes them. Fails unless all have answered.
    pub fn all_alive(self, connections: usize) -> Result<()> {
        let output = self.process.stop(PATIENCE)?.ok()?.text();
        let last = output.lines().last().context("it has said nothing")?;
        let report: Value = serde_json::from_str(last)?;
        ensure!(report["ok"] == connections && report["failed"] == 0, "tried once more: {report}");
        Ok(())
    }
}
