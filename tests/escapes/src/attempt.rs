//! `weft-escape`, started somewhere: what it tries and how far it got.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Command, Pod, Process};
use serde::Deserialize;
use serde_json::Value;

/// What captured pods say, each with a number of its own. It must never be on the wire.
pub const SECRET: &str = "weft-escape-secret";
/// Longer than any program here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A new secret.
pub fn secret() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{SECRET}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The program's own path.
pub fn program() -> Result<PathBuf> {
    lab::binary("weft-escape")
}

/// An attempt that runs.
#[derive(Debug)]
pub struct Attempt {
    process: Process,
    /// What it says.
    pub said: String,
}

/// How a dial ended.
#[derive(Debug, Deserialize)]
pub struct Dialled {
    /// The step that failed.
    pub failed: Option<String>,
    /// In the words of errno(3).
    pub errno: Option<String>,
    /// What it was answered.
    pub heard: String,
}

impl Attempt {
    /// Starts `weft-escape dial TO …` by a command of the lab's.
    pub fn dial<T: AsRef<OsStr>>(
        to: SocketAddr,
        words: &[T],
        run: impl FnOnce(Vec<OsString>) -> Result<Command>,
    ) -> Result<Self> {
        Self::dial_saying(to, &secret(), words, run)
    }

    /// The same with what is said.
    pub fn dial_saying<T: AsRef<OsStr>>(
        to: SocketAddr,
        say: &str,
        words: &[T],
        run: impl FnOnce(Vec<OsString>) -> Result<Command>,
    ) -> Result<Self> {
        let mut line: Vec<OsString> = vec![program()?.into(), "dial".into(), to.to_string().into()];
        line.extend(["--say".into(), say.into()]);
        line.extend(words.iter().map(|word| word.as_ref().to_owned()));
        Ok(Self { process: run(line)?.spawn()?, said: say.to_owned() })
    }

    /// In a pod.
    pub fn from_pod<T: AsRef<OsStr>>(pod: &Pod, to: SocketAddr, words: &[T]) -> Result<Self> {
        Self::dial(to, words, |line| pod.command(line))
    }

    /// In a pod, saying something that is no secret.
    pub fn openly<T: AsRef<OsStr>>(pod: &Pod, to: SocketAddr, words: &[T]) -> Result<Self> {
        Self::dial_saying(to, "no secret", words, |line| pod.command(line))
    }

    /// Waits for its end.
    pub fn end(self) -> Result<Dialled> {
        self.process.wait(PATIENCE)?.ok()?.json()
    }

    /// What it is and what it wrote, for failures.
    pub fn report(&self) -> String {
        self.process.failure_report()
    }

    /// Waits for its end, which must be this error of its connect.
    pub fn fails(self, errno: &str) -> Result<String> {
        let end = self.end()?;
        ensure!(end.errno.as_deref() == Some(errno), "not {errno}: {end:?}");
        Ok(format!("{errno} from {}", end.failed.unwrap_or_default()))
    }

    /// Waits for its end: it must have been told of a failure at some step, or have got a TLS alert, and nothing else.
    pub fn gets_nothing(self) -> Result<String> {
        let end = self.end()?;
        if end.heard.starts_with('\u{15}') {
            return Ok("a TLS alert".to_owned());
        }
        ensure!(end.heard.is_empty(), "it was answered: {end:?}");
        match (end.errno, end.failed) {
            (Some(errno), Some(step)) => Ok(format!("{errno} from {step}")),
            // An end of stream without a byte: a listener that hung up.
            _ => Ok("hung up on".to_owned()),
        }
    }
}

/// A socket that a process elsewhere opens and hands to whoever comes.
#[derive(Debug)]
pub struct Gift {
    _process: Process,
    path: PathBuf,
}

impl Gift {
    /// `run` decides where it is opened.
    pub fn offer(by: &Pod, v6: bool, run: impl FnOnce(Vec<OsString>) -> Result<Command>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let path = by.directory("gifts")?.join(format!("{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut line: Vec<OsString> = vec![program()?.into(), "hand-over".into(), "--at".into()];
        line.push(path.clone().into());
        line.extend(v6.then(|| "--v6".into()));
        Ok(Self { _process: run(line)?.spawn()?, path })
    }

    /// The words by which `dial` fetches it.
    pub fn words(&self) -> [OsString; 2] {
        ["--inherit".into(), self.path.clone().into()]
    }
}

/// Runs another way of `weft-escape` to its end and reads what it printed.
pub fn run_way(pod: &Pod, words: &[&str]) -> Result<Value> {
    let line = std::iter::once(program()?.into()).chain(words.iter().map(OsString::from));
    pod.command(line)?.timeout(PATIENCE).run()?.ok()?.json().context("what it printed")
}
