//! Arguments of `top`.

use std::time::Duration;

use clap::{Args as Group, ValueEnum};

use super::span::span;

/// What is watched.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # Who talks, how fast, and what is refused: live\n  meshctl top\n\n  \
    # One namespace\n  meshctl top -n shop\n\n  \
    # Once, for a script\n  meshctl top --once --interval 5s -o json\n\n\
    Keys: q quit, Tab talkers or refusals, s next order, r other way round, / filter (Enter keeps it, Esc drops it), p \
    pause, arrows and PgUp/PgDn scroll, ? help. Where standard output is no terminal, one table is printed after one interval.")]
pub(crate) struct TopArgs {
    /// Print one table after one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// How often to look
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = span)]
    pub(crate) interval: Duration,
    /// Order of the talkers
    #[arg(long, visible_alias = "sort-by", value_name = "KEY", value_enum, default_value_t = TalkerSort::Bytes)]
    pub(crate) sort: TalkerSort,
    /// Only what has an end in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// Order of talkers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TalkerSort {
    /// Bytes a second, both directions together
    #[default]
    Bytes,
    /// New connections a second
    Connections,
    /// Open connections
    Open,
    /// By who dials
    Source,
    /// By who is dialled
    Destination,
}
