//! A started program, and what came out of it.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use serde::de::DeserializeOwned;

use super::{Child, clone, read_all, tail};

/// A program that runs. Dropping it kills its process group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Set once it was waited for: from then on the pid is not ours any more.
    ended: Option<ExitStatus>,
    what: String,
    /// Standard output and standard error.
    paths: [PathBuf; 2],
    enter: String,
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    what: String,
    enter: String,
}

impl Process {
    pub(super) fn new(child: Child, what: String, paths: [PathBuf; 2], enter: String) -> Self {
        Self { child, ended: None, what, paths, enter }
    }

    /// Its pid. Only to be used while the handle lives.
    pub fn pid(&self) -> i32 {
        self.child.pid.as_raw()
    }

    /// File of its standard output.
    pub fn stdout_path(&self) -> &Path {
        &self.paths[0]
    }

    /// What it has written to standard output so far.
    pub fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&read_all(&self.paths[0])).into_owned()
    }

    /// What it has written to standard error so far.
    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&read_all(&self.paths[1])).into_owned()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.ended.is_none() && !self.await_end(Duration::ZERO)
    }

    /// Waits for its end; kills it after `timeout`, which is an error.
    pub fn wait(mut self, timeout: Duration) -> Result<Output> {
        if self.ended.is_none() && !self.await_end(timeout) {
            let what = self.failure_report();
            bail!("no end after {timeout:?}: {what}");
        }
        let Some(status) = self.ended else { bail!("lost {}", self.what) };
        let [stdout, stderr] = [read_all(&self.paths[0]), read_all(&self.paths[1])];
        let (what, enter) = (std::mem::take(&mut self.what), std::mem::take(&mut self.enter));
        Ok(Output { status, stdout, stderr, what, enter })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        clone::signal(&self.child, signal as i32).with_context(|| format!("{signal} to {}", self.what))
    }

    /// Kills it with SIGKILL, its process group too, and waits.
    pub fn kill(&mut self) {
        if self.ended.is_some() {
            return;
        }
        // It made a session of its own, so the group's number is its pid; that is taken as long as it is not waited for.
        let _ = killpg(self.child.pid, Signal::SIGKILL);
        let _ = clone::signal(&self.child, libc::SIGKILL);
        self.await_end(Duration::from_secs(10));
    }

    /// Asks it to end with SIGTERM and waits for that; kills it after `timeout`, which is an error.
    pub fn stop(self, timeout: Duration) -> Result<Output> {
        self.signal(Signal::SIGTERM)?;
        self.wait(timeout)
    }

    /// What it is, its state and the ends of its output: for failure messages.
    pub fn failure_report(&self) -> String {
        let mut text = self.what.clone();
        let mut paths = self.paths.to_vec();
        paths.dedup();
        for path in paths {
            let _ = write!(text, "\n--- end of {}\n{}", path.display(), tail(&path, 40));
        }
        let _ = write!(text, "\n--- enter with: {}", self.enter);
        text
    }

    fn await_end(&mut self, timeout: Duration) -> bool {
        let start = Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let ended = match poll(&mut [PollFd::new(self.child.pidfd.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(count) => count > 0,
                Err(_interrupted) => false,
            };
            if ended {
                break;
            }
            if start.elapsed() >= timeout {
                return false;
            }
        }
        let mut status = 0;
        // SAFETY: `status` is ours; the pid is a child that nobody else waits for.
        let pid = unsafe { libc::waitpid(self.child.pid.as_raw(), &raw mut status, 0) };
        self.ended = Some(ExitStatus::from_raw(if pid > 0 { status } else { 0xff00 }));
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Output {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Itself, if the program ended with 0; else an error that shows what it wrote.
    pub fn ok(self) -> Result<Self> {
        if self.success() {
            return Ok(self);
        }
        let (out, err) = (self.text(), self.errors());
        bail!(
            "{}: {}\n--- stdout\n{out}\n--- stderr\n{err}\n--- enter with: {}",
            self.what,
            self.status,
            self.enter
        )
    }

    /// Standard output read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.stdout).with_context(|| {
            format!("{} wrote no such JSON: {:?} {:?}", self.what, self.text(), self.errors())
        })
    }
}
