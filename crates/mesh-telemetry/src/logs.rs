//! The log: one line per event on standard error, as text or JSON.
//!
//! `RUST_LOG` wins over the default filter that the end was started with. Colours only where a person looks: standard
//! error is a terminal, `NO_COLOR` is unset or empty (no-color.org) and the terminal is not a dumb one. What the
//! `log` crate carries (aya-log, rustls) is taken in too. The filter can be changed while the process runs (`switch`). Not
//! here: log files and rotation, which are the service manager's.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::filter::{ParseError, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _, fmt, reload};

mod switch;
#[cfg(test)]
mod tests;

pub use switch::routes;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A filter that tracing cannot read.
    #[error("{from} {filter:?} is not a log filter (examples: info; warn,mesh_agent=debug)")]
    Filter {
        /// Where the filter came from: `RUST_LOG` or the default.
        from: &'static str,
        /// The filter as it was written.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A word that is neither a level nor says of what.
    #[error(
        "{0:?} is no log level: use off, error, warn, info, debug or trace, or TARGET=LEVEL (info,mesh_agent=debug)"
    )]
    NoLevel(String),
    /// Nothing.
    #[error("an empty log filter: use off to silence the log")]
    Empty,
    /// More than a filter may have.
    #[error("a log filter has at most {0} bytes")]
    Long(usize),
    /// The process is about to end.
    #[error("there is no logger any more")]
    Gone,
    /// `RUST_LOG` is not UTF-8.
    #[error("RUST_LOG is not UTF-8")]
    NotUtf8,
    /// A logger is there already.
    #[error("logging was set up twice in this process")]
    Twice(#[source] TryInitError),
}

/// A format that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format: use text or json")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(word.into())),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts logging for the process. `default_filter` holds where `RUST_LOG` is unset or empty.
pub fn init(format: Format, default_filter: &str) -> Result<(), LogError> {
    let (from, start) = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.trim().is_empty() => ("RUST_LOG", filter),
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogError::NotUtf8),
        _ => ("the default filter", default_filter.to_owned()),
    };
    let (filter, handle) = reload::Layer::new(parse(from, &start)?);
    let colours =
        colours(std::io::stderr().is_terminal(), env("NO_COLOR").as_deref(), env("TERM").as_deref());
    set_format(format);
    // The filter last: what it leaves out is never asked about again.
    tracing_subscriber::registry()
        .with(
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(colours)
                .with_filter(dynamic_filter_fn(|_, _| !is_json())),
        )
        .with(
            fmt::layer()
                .with_writer(std::io::stderr)
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_filter(dynamic_filter_fn(|_, _| is_json())),
        )
        .with(filter)
        .try_init()
        .map_err(LogError::Twice)?;
    let apply = move |filter| {
        let applied = handle.reload(filter).is_ok();
        switch::follow_level();
        applied
    };
    switch::set_up(start, Box::new(apply));
    Ok(())
}

/// An error with its causes, in one line.
fn in_words(error: &LogError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Writes lines so from now on.
pub fn set_format(format: Format) {
    JSON.store(format == Format::Json, Ordering::Relaxed);
}

fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

fn parse(from: &'static str, filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(filter).map_err(|source| LogError::Filter {
        from,
        filter: filter.into(),
        source,
    })
}

fn env(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Whether text may carry colours. `no_color` and `term` are the variables of those names, if set.
pub fn colours(terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
    terminal && no_color.is_none_or(str::is_empty) && term != Some("dumb")
}
