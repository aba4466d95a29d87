//! The access log: a line for each connection when it is over, and for each that was refused or cut, on standard output.
//!
//! ```text
//! ended, refused, cut ─▶ filter: is it wanted? ─▶ line: text or JSON ─▶ queue ── a thread of its own ─▶ standard output
//!                        (no: nothing was made)    (in a kept buffer)   └─ full: left out, and counted
//! ```
//!
//! Nobody waits for whoever reads it: a line that finds no room is left out. What is wanted is asked of what is in force
//! (`settings`) at each line, so a change counts from the next line on. What was refused or cut is never sampled.
//!
//! Standard error has what the agent says of itself, and of refusals some (`told`); here are all of them.

mod audited;
mod escape;
mod filter;
mod line;
mod queue;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_model::{AccessLogMode, Reason};

use super::About;
use crate::settings::Shared;
use audited::Audited;
use line::{Clock, Line};
use queue::{Queue, Writer};

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// It was admitted, and is over.
    Closed,
    /// It never began.
    Refused,
    /// It was ended because it is not admitted any more.
    Cut,
}

/// What the kernel has measured of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// From the application's connect until its destination had answered.
    pub connect: Option<Duration>,
    /// Smoothed round-trip time of the leg beyond this node's agent.
    pub rtt: Option<Duration>,
    /// Segments that were sent again there.
    pub retransmits: Option<u64>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// `None`: cleanly.
    pub reason: Option<Reason>,
    /// Bytes from source to destination.
    pub bytes_sent: u64,
    /// Bytes back.
    pub bytes_received: u64,
    /// How long it was open, where that is known.
    pub duration: Option<Duration>,
    /// What the kernel has measured.
    pub transport: Transport,
    /// A policy in mode Audit would have refused it.
    pub audited: bool,
}

/// The log. Clones write to the same one; the last one to go writes what is left.
#[derive(Clone, Debug)]
pub struct AccessLog {
    settings: Shared,
    audited: Arc<Audited>,
    writer: Arc<Writer>,
}

impl AccessLog {
    /// Begins to write to standard output, by what is in force at each line.
    pub fn start(settings: Shared) -> io::Result<Self> {
        // Not by way of `io::stdout`, which would look for ends of lines again.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Self::to(settings, stdout)
    }

    fn to(settings: Shared, out: impl io::Write + Send + 'static) -> io::Result<Self> {
        let writer = Arc::new(Writer::start(Queue::default(), out)?);
        Ok(Self { settings, audited: Arc::default(), writer })
    }

    /// How many lines were left out, because nobody reads them fast enough or they cannot be written.
    pub fn dropped(&self) -> u64 {
        self.writer.queue().dropped()
    }

    /// Waits until everything is written, for a moment at most. For the agent's end: it blocks.
    pub fn flush(&self) {
        self.writer.queue().flush();
    }

    /// A connection that was admitted is over. The agent's own connections come here by themselves.
    pub fn ended(&self, about: &About, ended: &Ended) {
        self.write(Event::Closed, about, ended.reason, &"", ended);
    }

    /// A connection never began.
    pub fn refused(&self, about: &About, reason: Reason, detail: &dyn Display) {
        // What was noted of it is of no use any more.
        self.audited.take(about);
        self.write(Event::Refused, about, Some(reason), detail, &Ended::default());
    }

    /// A connection was ended because it is not admitted any more.
    pub(super) fn cut(&self, about: &About, reason: Reason, detail: &str, ended: &Ended) {
        self.write(Event::Cut, about, Some(reason), &detail, ended);
    }

    /// Notes that a policy in mode Audit would have refused what is about to begin.
    pub(super) fn note_audit(&self, about: &About) {
        self.audited.note(about);
    }

    /// Whether there are lines of connections that went well.
    pub fn wants_endings(&self) -> bool {
        self.settings.load().access_log.mode == AccessLogMode::All
    }

    /// Whether that was noted; it is forgotten.
    pub fn was_audited(&self, about: &About) -> bool {
        self.audited.take(about)
    }

    fn write(
        &self,
        event: Event,
        about: &About,
        reason: Option<Reason>,
        detail: &dyn Display,
        ended: &Ended,
    ) {
        let settings = self.settings.load();
        let log = &settings.access_log;
        if !filter::wants(log, event, about, ended.duration) || crate::metrics::is_silent() {
            return;
        }
        with_scratch(|scratch| {
            let Scratch { clock, detail: words, line } = scratch;
            words.clear();
            line.clear();
            // A String takes whatever is written to it; what somebody's own `Display` does not say is not said.
            let _said = write!(words, "{detail}");
            let time = SystemTime::now();
            Line { event, about, reason, detail: words, ended }.write(log.format, clock, time, line);
            self.writer.queue().push(line);
        });
    }
}

/// What a thread makes lines in.
#[derive(Debug, Default)]
struct Scratch {
    clock: Clock,
    detail: String,
    line: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The thread's own; another one where the thread is at its end, or a line is made while one is made.
fn with_scratch(make: impl Fn(&mut Scratch)) {
    let made =
        SCRATCH.try_with(|scratch| scratch.try_borrow_mut().map(|mut scratch| make(&mut scratch)).is_ok());
    if made != Ok(true) {
        make(&mut Scratch::default());
    }
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Cut => "cut",
        }
    }
}
