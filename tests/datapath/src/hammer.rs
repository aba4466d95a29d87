//! New connections at a steady rate from a pod, each with one small request: `weft-lab-peer hammer`, with its report read.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Pod, Process};
use serde_json::Value;

/// Longer than anything a test does meanwhile; it is stopped, it does not run out.
const LONGEST: &str = "600";

/// A load that runs.
#[derive(Debug)]
pub struct Hammer {
    process: Process,
}

/// What came of a load.
#[derive(Debug)]
pub struct Tally {
    /// Connections tried.
    pub attempted: u64,
    /// Of those, the ones that failed.
    pub failed: u64,
    report: Value,
}

impl Hammer {
    /// Starts to dial an echo server `rate` times per second.
    pub fn start(pod: &Pod, to: SocketAddr, rate: u32) -> Result<Self> {
        let (to, rate) = (to.to_string(), rate.to_string());
        let process =
            pod.spawn(["weft-lab-peer", "hammer", "--to", &to, "--rate", &rate, "--seconds", LONGEST])?;
        Ok(Self { process })
    }

    /// Ends it and reads what came of it. An error if nothing was tried.
    pub fn stop(self) -> Result<Tally> {
        let report: Value = self.process.stop(Duration::from_secs(20))?.ok()?.json()?;
        let number = |key: &str| report[key].as_u64().unwrap_or_default();
        let tally = Tally { attempted: number("attempted"), failed: number("failed"), report };
        ensure!(tally.attempted > 0, "no connection was tried: {}", tally.report);
        Ok(tally)
    }
}

impl Tally {
    /// The tally as a row's detail, if nothing failed; else an error that says what failed and when first.
    pub fn none_failed(&self) -> Result<String> {
        ensure!(self.failed == 0, "{self}");
        Ok(self.to_string())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempted, failed, report } = self;
        let milliseconds = |key: &str| report[key].as_u64().unwrap_or_default() as f64 / 1000.0;
        write!(
            f,
            "{attempted} attempted, {failed} failed, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            milliseconds("p50_us"),
            milliseconds("p99_us"),
            milliseconds("max_us"),
        )?;
        if *failed > 0 { write!(f, ", by {}", report["by"]) } else { Ok(()) }
    }
}
