//! Watches over one running test program: its output, its rows, the clock, and signals to us.
//!
//! Invariant: when [`Watched::run`] returns, the program and everything that it started are gone.

use super::count::{Row, Status};
use crate::process;
use crate::ui::{self, say};
use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// A group is meant to end within this.
    pub(super) expected: Duration,
    /// A program is ended after this: one that hangs, on however slow a machine.
    pub(super) hard: Duration,
    /// How long a program that was told to end may clean up.
    pub(super) grace: Duration,
    /// How long what a test started may outlive it: the lab's guard cleans up after a test program that was killed.
    pub(super) linger: Duration,
}

impl Limits {
    /// The usual ones. A group of programs that all hang takes as many times the hard limit.
    pub(super) const GROUP: Self = Self {
        expected: Duration::from_secs(5 * 60),
        hard: Duration::from_secs(15 * 60),
        grace: Duration::from_secs(45),
        linger: Duration::from_secs(15),
    };
    /// Those of a run that was asked to take long.
    pub(super) const LONG: Self =
        Self { expected: Duration::from_secs(6 * 3600), hard: Duration::from_secs(6 * 3600), ..Self::GROUP };
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Both streams, in the order of arrival.
    pub(super) output: String,
    /// What the test filed.
    pub(super) rows: Vec<Row>,
    /// How it ended, if not with exit code 0.
    pub(super) end: Option<String>,
    /// Processes that it left running, which have been killed.
    pub(super) left: Vec<String>,
}

/// A test program that is to be run.
pub(super) struct Watched<'a> {
    /// For people.
    pub(super) title: &'a str,
    /// Where it files its rows.
    pub(super) rows: &'a Path,
    /// When its group began.
    pub(super) since: Instant,
    pub(super) limits: Limits,
    /// Show all that it prints.
    pub(super) verbose: bool,
    /// Show rows as they come.
    pub(super) live: bool,
}

impl Watched<'_> {
    /// Runs it to its end, in a process group of its own and without standard input.
    pub(super) fn run(&self, command: &mut Command) -> Result<Seen> {
        fs::write(self.rows, "").with_context(|| format!("cannot write {}", self.rows.display()))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.title))?;
        let (sender, lines) = mpsc::channel();
        collect(child.stdout.take(), &sender);
        collect(child.stderr.take(), &sender);
        drop(sender);
        let mut seen = Seen::default();
        let status = self.watch(&mut child, &lines, &mut seen)?;
        if seen.end.is_none() && !status.success() {
            seen.end = Some(match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("exit code {}", status.code().unwrap_or(-1)),
            });
        }
        seen.left = end_the_rest(self.limits.linger);
        // Nobody holds the other end of the pipes any more, so this ends.
        lines.iter().for_each(|line| self.take(line, &mut seen));
        self.read_rows(&mut seen);
        Ok(seen)
    }

    fn watch(&self, child: &mut Child, lines: &Receiver<String>, seen: &mut Seen) -> Result<ExitStatus> {
        let started = Instant::now();
        let mut warned = self.since.elapsed() > self.limits.expected;
        let mut told: Option<Instant> = None;
        loop {
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    self.take(line, seen);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(20)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.read_rows(seen);
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if !warned && self.since.elapsed() > self.limits.expected {
                warned = true;
                let minutes = self.limits.expected.as_secs() / 60;
                say!("{} the group takes longer than {minutes} minutes", ui::yellow("slow:"));
            }
            match told {
                None => {
                    if let Some(signal) = process::interrupted() {
                        say!("{} {}; waiting for it to clean up", ui::yellow("ending"), self.title);
                        seen.end = Some(format!("interrupted by signal {signal}"));
                        let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTERM);
                        process::signal_to(group_of(child), signal);
                        told = Some(Instant::now());
                    } else if started.elapsed() > self.limits.hard {
                        let seconds = self.limits.hard.as_secs();
                        seen.end = Some(format!("ended: it took more than {seconds} s"));
                        process::signal_to(group_of(child), Signal::SIGTERM);
                        told = Some(Instant::now());
                    }
                }
                Some(at) if at.elapsed() > self.limits.grace => {
                    process::signal_to(group_of(child), Signal::SIGKILL);
                    return Ok(child.wait()?);
                }
                Some(_) => {}
            }
        }
    }

    fn take(&self, line: String, seen: &mut Seen) {
        if self.verbose {
            say!("{line}");
        }
        seen.output.push_str(&line);
        seen.output.push('\n');
    }

    /// Reads the rows that have come since the last time; a line without its end is still being written.
    fn read_rows(&self, seen: &mut Seen) {
        let text = fs::read_to_string(self.rows).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let rows: Vec<Row> = whole.lines().filter_map(Row::parse).collect();
        for row in rows.into_iter().skip(seen.rows.len()) {
            if self.live {
                let word = match row.status {
                    Status::Pass => ui::green("pass"),
                    Status::Fail => ui::red("fail"),
                    Status::Skip => ui::yellow("skip"),
                };
                say!("  {word}  {}  {}", row.title(), row.detail);
            }
            seen.rows.push(row);
        }
    }
}

/// The process group of a child that leads one, as `kill` wants it.
fn group_of(child: &Child) -> Pid {
    Pid::from_raw(-process::pid_of(child).as_raw())
}

/// Waits a moment for what the program started, then kills what is left of it, and says what that was.
fn end_the_rest(linger: Duration) -> Vec<String> {
    let since = Instant::now();
    loop {
        process::reap_orphans();
        let left = process::descendants();
        if left.is_empty() {
            return Vec::new();
        }
        if since.elapsed() > linger {
            process::kill_descendants();
            return left.into_iter().map(|(pid, line)| format!("{pid} {line}")).collect();
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn collect(stream: Option<impl Read + Send + 'static>, lines: &Sender<String>) {
    let Some(stream) = stream else { return };
    let lines = lines.clone();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if lines.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests;
