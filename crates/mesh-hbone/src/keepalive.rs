//! Who is still there: silence, then a PING, then the verdict.
//!
//! ```text
//!  heard from the peer ─▶ quiet for an interval ─▶ PING ─▶ quiet for the timeout ─▶ dead
//!          ▲───────────── anything read ──────────────┘
//! ```
//!
//! Anything that was read counts as a sign of life, not the answer alone: that may stand behind bulk. One timer per
//! connection, looked at once per interval; a busy connection sends no PING. The verdict is not spoken before the socket has
//! been read once more: a process (or its machine) that was stopped finds its own time over, and the answer waiting.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Between the timeout and the verdict: one turn of the connection, which reads what has come.
const LAST_LOOK: Duration = Duration::from_millis(10);

pub(crate) struct KeepAlive {
    pings: Option<h2::PingPong>,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    /// Count of reads at the last look.
    heard: u64,
    /// A PING is out, or should be, and nothing was read since.
    waiting: bool,
    /// The timeout is over, and the connection is read once more.
    doubtful: bool,
}

/// What a look at the clock found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// An interval has passed and the peer is there, or is being asked.
    Alive,
    /// The peer is silent.
    Dead,
}

impl KeepAlive {
    pub(crate) fn new(pings: Option<h2::PingPong>, interval: Duration, timeout: Duration) -> Self {
        let timer = Box::pin(tokio::time::sleep(interval));
        Self { pings, interval, timeout, timer, heard: 0, waiting: false, doubtful: false }
    }

    /// Ready whenever the timer fires. To be called *before* the connection is polled, which sends the PING, and again
    /// until it is pending.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, heard: u64) -> Poll<Look> {
        std::task::ready!(self.timer.as_mut().poll(cx));
        let alive = heard != self.heard;
        self.heard = heard;
        if !alive && self.waiting {
            if self.doubtful {
                return Poll::Ready(Look::Dead);
            }
            // No look of its own to who calls: the timer is pending again.
            self.doubtful = true;
            self.timer.as_mut().reset(Instant::now() + LAST_LOOK);
            return self.poll(cx, heard);
        }
        self.doubtful = false;
        self.waiting = !alive;
        if self.waiting
            && let Some(pings) = &mut self.pings
        {
            // An answer that nobody took keeps the next PING back. One that is still out is as good as a new one.
            let _ = pings.poll_pong(cx);
            let _ = pings.send_ping(h2::Ping::opaque());
        }
        let next = if self.waiting { self.timeout } else { self.interval };
        self.timer.as_mut().reset(Instant::now() + next);
        Poll::Ready(Look::Alive)
    }
}

#[cfg(test)]
mod tests;
