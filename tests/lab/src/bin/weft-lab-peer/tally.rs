//! How many worked, and what failed how often.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::words;

/// Counts outcomes from many threads.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ok: u64,
    /// By step and errno.
    failed: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Tally {
    /// Counts one outcome.
    pub(crate) fn count(&self, outcome: Result<Duration, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(took) => {
                state.ok += 1;
                state.slowest = state.slowest.max(took);
            }
            Err(reason) => *state.failed.entry(reason).or_default() += 1,
        }
    }

    /// The counts, as fields of a report.
    pub(crate) fn report(self) -> Map<String, Value> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed: u64 = state.failed.values().sum();
        let mut report = Map::new();
        report.insert("ok".into(), state.ok.into());
        report.insert("failed".into(), failed.into());
        report.insert("by".into(), json!(state.failed));
        report.insert("slowest_us".into(), (state.slowest.as_micros() as u64).into());
        report
    }
}

/// Names the step in which an error came.
pub(crate) fn step(name: &'static str) -> impl Fn(io::Error) -> String {
    move |error| match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("{name}:eof"),
        _ => format!("{name}:{}", words::errno(&error)),
    }
}

/// Lets this process have as many open files as it may.
pub(crate) fn raise_open_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
