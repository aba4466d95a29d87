//! Arguments of `log-level`.

use std::time::Duration;

use clap::Args as Group;

use super::span::span;

/// What an end takes at most.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What is to be logged.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # What is logged now?\n  meshctl log-level\n\n  \
    # More, of all parts of the agent\n  meshctl log-level debug\n\n  \
    # More of one part, for ten minutes\n  meshctl log-level info,mesh_agent::outbound=trace --for 10m\n\n  \
    # As the process was started\n  meshctl log-level --reset\n\n  \
    # A controller\n  meshctl --socket /run/weft/controller.sock log-level debug --for 5m\n\n\
    A filter is what RUST_LOG takes: a level (off, error, warn, info, debug, trace), then TARGET=LEVEL, separated by commas. \
    What the eBPF programs log is fixed when an agent loads them (RUST_LOG=info,weft::kernel=debug at its start).")]
pub(crate) struct LogLevelArgs {
    /// The new filter; the one in force is shown otherwise
    #[arg(value_name = "FILTER", conflicts_with = "reset")]
    pub(crate) filter: Option<String>,
    /// For so long, at most a day, and then as before: 90s, 10m, 1h
    #[arg(long = "for", value_name = "SPAN", value_parser = a_while, requires = "filter")]
    pub(crate) span: Option<Duration>,
    /// As the process was started
    #[arg(long)]
    pub(crate) reset: bool,
}

fn a_while(text: &str) -> Result<Duration, String> {
    match span(text)? {
        span if span <= LONGEST => Ok(span),
        _ => Err("at most a day; without --for it is for good".into()),
    }
}
