//! What the programs of `weft-lab-peer` say, run from a pod.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Pod, Process};
use serde_json::Value;

/// How long a destination that answers may take: many round trips, on a machine with other things to do.
const SOON: Duration = Duration::from_secs(4);
/// More than an agent gives a destination that does not answer.
const LATE: Duration = Duration::from_secs(32);

/// What came of one connect: `weft-lab-peer connect-once`, in words of errno(3).
#[derive(Debug)]
pub struct Once {
    /// What connect(2) said, if not success.
    pub errno: Option<String>,
    /// What write(2) said, if not success. An error that it has told is not told again by the read.
    pub sent: Option<String>,
    /// How the stream ended, for a connect that succeeded: `eof`, `full`, or an error's name.
    pub end: Option<String>,
    /// What was read before.
    pub read: String,
    /// connect(2) alone.
    pub connect_us: u64,
    /// From before connect(2) to the end, for a connect that succeeded.
    pub total_us: u64,
}

/// A connect whose outcome is not there yet.
#[derive(Debug)]
pub struct Trying {
    process: Process,
}

/// Connects once from a pod to where somebody answers, sends `send` if there is something, and reads to the end.
pub fn connect_once(from: &Pod, to: SocketAddr, send: Option<&str>) -> Result<Once> {
    start(from, to, send, SOON)?.outcome()
}

/// Begins to do that where nobody may answer.
pub fn try_connect(from: &Pod, to: SocketAddr, send: Option<&str>) -> Result<Trying> {
    start(from, to, send, LATE)
}

fn start(from: &Pod, to: SocketAddr, send: Option<&str>, patience: Duration) -> Result<Trying> {
    let (to, patience) = (to.to_string(), patience.as_millis().to_string());
    let mut arguments = vec!["weft-lab-peer", "connect-once", &to, "--timeout-ms", &patience];
    arguments.extend(send.iter().flat_map(|text| ["--send", *text]));
    Ok(Trying { process: from.spawn(arguments)? })
}

impl Trying {
    /// Waits for it.
    pub fn outcome(self) -> Result<Once> {
        let said: Value = self.process.wait(2 * LATE)?.ok()?.json()?;
        let text = |key: &str| said[key].as_str().map(str::to_owned);
        Ok(Once {
            errno: text("errno"),
            sent: text("sent"),
            end: text("end"),
            read: text("read").unwrap_or_default(),
            connect_us: said["connect_us"].as_u64().with_context(|| said.to_string())?,
            total_us: said["total_us"].as_u64().unwrap_or_default(),
        })
    }
}

impl Once {
    /// connect(2) itself must have said ECONNREFUSED. Says how long it took.
    pub fn refused(&self) -> Result<String> {
        ensure!(self.errno.as_deref() == Some("ECONNREFUSED"), "{self:?}");
        Ok(format!("ECONNREFUSED from connect after {} us", self.connect_us))
    }

    /// The connection must have been established, and the next write or read must have said ECONNRESET. Says how long both took.
    pub fn reset(&self) -> Result<String> {
        // Only a connection that stands can be reset: a program that had to wait for a CPU hears of both from connect(2).
        if self.errno.as_deref() == Some("ECONNRESET") {
            return Ok(format!("connected and reset within {} us", self.connect_us));
        }
        ensure!(self.errno.is_none(), "connect itself failed: {self:?}");
        let told = [&self.sent, &self.end].map(|word| word.as_deref() == Some("ECONNRESET"));
        ensure!(told.contains(&true) && self.read.is_empty(), "{self:?}");
        let reset = self.total_us.saturating_sub(self.connect_us);
        Ok(format!("connected after {} us, RST {reset} us later", self.connect_us))
    }
}
