//! The filter of the log, changed while the process runs.
//!
//! ```text
//! meshctl log-level ─▶ POST /v1/log-level ─▶ parse ─▶ Switch ─▶ reload ─▶ every callsite is asked anew
//!                                                       └─ for a while: puts back what was there before
//! ```
//!
//! Invariants: a filter that cannot be read changes nothing; of several changes for a while the last one counts, and what
//! is put back is the last one that was for good. Not here: what the eBPF programs log, which is fixed when they are loaded.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{LogError, parse};
use crate::api::{LogLevel, SetLogLevel, path};
use crate::http::{Request, Response, Routes};

/// Bytes of a filter.
const LONGEST: usize = 1024;
/// How long "for a while" may be: a day.
const LONGEST_WHILE: u64 = 86_400;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What makes a filter the one in force; `false`: there is no logger any more.
type Apply = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// The filter in force, and how to change it.
pub(super) struct Switch {
    apply: Apply,
    state: Mutex<State>,
}

struct State {
    /// As the process was started.
    start: String,
    /// The last one that was set for good.
    base: String,
    now: String,
    until: Option<SystemTime>,
    /// Counts changes: who puts something back must be the last one to have changed it.
    changes: u64,
}

/// The process's own, once it logs.
static SWITCH: OnceLock<Arc<Switch>> = OnceLock::new();

/// Hands over the process's logger; the first one stays.
pub(super) fn set_up(start: String, apply: Apply) {
    // A second logger was refused before this.
    let _ = SWITCH.set(Arc::new(Switch::new(start, apply)));
}

/// Adds the endpoint that shows and sets the filter: GET and POST.
pub fn routes(routes: Routes) -> Routes {
    routes
        .get(path::LOG_LEVEL, |_| {
            std::future::ready(match SWITCH.get() {
                Some(switch) => Response::json(&switch.level()),
                None => Response::unavailable("this process has no log"),
            })
        })
        .post(path::LOG_LEVEL, |request| async move {
            match SWITCH.get() {
                Some(switch) => switch.answer(&request),
                None => Response::unavailable("this process has no log"),
            }
        })
}

impl Switch {
    pub(super) fn new(start: String, apply: Apply) -> Self {
        let state = State { base: start.clone(), now: start.clone(), start, until: None, changes: 0 };
        Self { apply, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn level(&self) -> LogLevel {
        let state = self.state();
        LogLevel { filter: state.now.clone(), start: state.start.clone(), until: state.until.map(Into::into) }
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let wanted: SetLogLevel = match serde_json::from_slice(&request.body) {
            Ok(wanted) => wanted,
            Err(error) => return Response::bad_request(format!("the body is no log level: {error}")),
        };
        let span = match wanted.seconds {
            Some(seconds) if !(1..=LONGEST_WHILE).contains(&seconds) => {
                return Response::bad_request(format!("for more than 0 and at most {LONGEST_WHILE} seconds"));
            }
            seconds => seconds.map(Duration::from_secs),
        };
        match self.set(wanted.filter.as_deref(), span) {
            Ok(change) => {
                if let Some(span) = span {
                    let switch = self.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(span).await;
                        switch.put_back(change);
                    });
                }
                Response::json(&self.level())
            }
            Err(error) => Response::bad_request(crate::logs::in_words(&error)),
        }
    }

    /// Makes a filter (`None`: the one of the start) the one in force. The number of the change.
    pub(super) fn set(&self, wanted: Option<&str>, span: Option<Duration>) -> Result<u64, LogError> {
        let mut state = self.state();
        let wanted = wanted.unwrap_or(&state.start).trim().to_owned();
        let filter = checked(&wanted)?;
        if !(self.apply)(filter) {
            return Err(LogError::Gone);
        }
        let was = std::mem::replace(&mut state.now, wanted);
        if span.is_none() {
            state.base = state.now.clone();
        }
        state.until = span.map(|span| SystemTime::now() + span);
        state.changes += 1;
        tracing::info!(
            filter = state.now,
            was,
            for_seconds = span.map(|span| span.as_secs()),
            "log filter changed"
        );
        Ok(state.changes)
    }

    /// The while is over, unless somebody has changed it since.
    pub(super) fn put_back(&self, change: u64) {
        let base = {
            let state = self.state();
            if state.changes != change {
                return;
            }
            state.base.clone()
        };
        if let Err(error) = self.set(Some(&base), None) {
            tracing::warn!(%error, "the log filter stays as it is");
        }
    }
}

/// A filter as tracing reads it, but for one trap: to tracing a bare word that is no level is a target, and everything else
/// falls silent.
fn checked(wanted: &str) -> Result<EnvFilter, LogError> {
    if wanted.len() > LONGEST {
        return Err(LogError::Long(LONGEST));
    }
    if wanted.is_empty() {
        return Err(LogError::Empty);
    }
    let bare = |word: &&str| {
        !word.contains(['=', '[', ']', '{', '}', ':']) && !LEVELS.contains(&word.to_lowercase().as_str())
    };
    // Within a span's fields commas are no separators, and nothing is bare.
    let words = wanted.split(',').map(str::trim).filter(|word| !word.is_empty());
    if let Some(word) = words.clone().find(bare).filter(|_| !wanted.contains('{')) {
        return Err(LogError::NoLevel(word.to_owned()));
    }
    parse("filter", wanted)
}

/// What the `log` crate lets through follows what tracing does.
pub(super) fn follow_level() {
    let level = LevelFilter::current();
    log::set_max_level(match level.into_level() {
        None => log::LevelFilter::Off,
        Some(tracing::Level::ERROR) => log::LevelFilter::Error,
        Some(tracing::Level::WARN) => log::LevelFilter::Warn,
        Some(tracing::Level::INFO) => log::LevelFilter::Info,
        Some(tracing::Level::DEBUG) => log::LevelFilter::Debug,
        Some(tracing::Level::TRACE) => log::LevelFilter::Trace,
    });
}
