//! The frames of a peer, looked at as they pass from TLS to h2: h2 answers each PING and SETTINGS and forgets it, so a
//! peer that sends nothing else would keep the agent's core busy for as long as it likes.
//!
//! ```text
//!  TLS ─▶ Metered ─▶ h2
//!            └─▶ Ledger: frame heads only ─▶ Driver: flood? requests that h2 answered by itself?
//! ```
//!
//! Costs nine bytes of attention per frame; payloads are skipped. Invariants: bytes are never changed or held back, until
//! a flood was found: then nothing more is read, and the driver ends the connection in the same turn.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::{Allowance, BYTES_PER_UPDATE, EMPTY_FRAMES, UPDATES};

#[cfg(test)]
mod tests;

const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A bucket that fills by time.
#[derive(Debug)]
pub(crate) struct Bucket {
    allowance: Allowance,
    left: u32,
    /// When it was last found empty.
    since: Instant,
}

impl Bucket {
    pub(crate) fn new(allowance: Allowance) -> Self {
        Self { allowance, left: allowance.burst, since: Instant::now() }
    }

    /// Takes one; false if there is none. Looks at the clock only when it seems empty.
    pub(crate) fn take(&mut self) -> bool {
        if self.left == 0 {
            let gained = self.since.elapsed().as_secs_f64() * f64::from(self.allowance.per_second);
            if gained < 1.0 {
                return false;
            }
            self.left = gained.min(f64::from(self.allowance.burst)) as u32;
            self.since = Instant::now();
        }
        self.left -= 1;
        true
    }
}

/// What has come.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The peer is a client: its headers are requests. A server's belong to requests of this end, which h2 looks after.
    of_client: bool,
    head: [u8; HEAD],
    /// Bytes of `head` that are there.
    have: usize,
    /// Payload of the current frame still to come, or what is left of the preface.
    skip: usize,
    /// The current frame ends the headers of a new request.
    completes: bool,
    last_stream: u32,
    /// Encoded headers of the request that is being read.
    block: usize,
    /// Requests whose headers have come.
    requests: u64,
    /// The longest encoded headers since the last look.
    longest: usize,
    empty: Bucket,
    updates: Bucket,
    /// Updates that were earned by bytes sent, and bytes towards the next one.
    earned: usize,
    sent: usize,
    /// Resets that belong to requests.
    resets: u64,
    /// The last write was not taken: h2 may hold frames that are counted here.
    blocked: bool,
    flood: Option<&'static str>,
}

impl Ledger {
    fn new(of_client: bool) -> Self {
        Self {
            of_client,
            head: [0; HEAD],
            have: 0,
            skip: if of_client { PREFACE } else { 0 },
            completes: false,
            last_stream: 0,
            block: 0,
            requests: 0,
            longest: 0,
            empty: Bucket::new(EMPTY_FRAMES),
            updates: Bucket::new(UPDATES),
            earned: 0,
            sent: 0,
            resets: 0,
            blocked: false,
            flood: None,
        }
    }

    /// What the peer floods the connection with.
    pub(crate) fn flood(&self) -> Option<&'static str> {
        self.flood
    }

    /// How many requests have come, and the longest encoded headers since the last look. None while h2 may not have got
    /// to see all of them.
    pub(crate) fn requests(&mut self) -> Option<(u64, usize)> {
        (!self.blocked).then(|| (self.requests, std::mem::take(&mut self.longest)))
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let now = self.skip.min(bytes.len());
                self.skip -= now;
                bytes = &bytes[now..];
            } else {
                let now = (HEAD - self.have).min(bytes.len());
                self.head[self.have..self.have + now].copy_from_slice(&bytes[..now]);
                self.have += now;
                bytes = &bytes[now..];
                if self.have < HEAD {
                    return;
                }
                self.have = 0;
                self.frame();
            }
            if self.skip == 0 && std::mem::take(&mut self.completes) {
                self.requests += 1;
                self.longest = self.longest.max(self.block);
                self.resets += 1;
            }
        }
    }

    /// The head of a frame is complete.
    fn frame(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        self.skip = length;
        let what = match kind {
            HEADERS | CONTINUATION | RST_STREAM if !self.of_client => return,
            HEADERS if stream > self.last_stream => {
                (self.last_stream, self.block) = (stream, length);
                self.completes = flags & END_HEADERS != 0;
                return;
            }
            CONTINUATION => {
                self.block = self.block.saturating_add(length);
                self.completes = stream == self.last_stream && flags & END_HEADERS != 0;
                return;
            }
            DATA if length > 0 || flags & END_STREAM != 0 => return,
            RST_STREAM if self.resets > 0 => {
                self.resets -= 1;
                return;
            }
            WINDOW_UPDATE => {
                if self.earned > 0 {
                    self.earned -= 1;
                } else if !self.updates.take() {
                    self.flood.get_or_insert("WINDOW_UPDATE");
                }
                return;
            }
            DATA => "empty DATA",
            HEADERS => "trailers",
            RST_STREAM => "RST_STREAM",
            SETTINGS => "SETTINGS",
            PING => "PING",
            _ => "frames that mean nothing here",
        };
        if !self.empty.take() {
            self.flood.get_or_insert(what);
        }
    }

    fn wrote(&mut self, bytes: usize) {
        self.sent += bytes;
        // Not for ever: a client that saved up for a year is no better.
        self.earned = (self.earned + self.sent / BYTES_PER_UPDATE).min(1 << 20);
        self.sent %= BYTES_PER_UPDATE;
    }
}

/// The stream that h2 gets. Clones share the ledger.
pub(crate) struct Metered<T> {
    io: T,
    ledger: SharedLedger,
}

/// The ledger in the driver's hand. Both are used in the same task: the lock is never waited for.
#[derive(Clone)]
pub(crate) struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Metered<T> {
    /// Stands between a client and h2 from the first byte on.
    pub(crate) fn of_client(io: T) -> (Self, SharedLedger) {
        Self::new(io, Ledger::new(true))
    }

    /// The same for a server.
    pub(crate) fn of_server(io: T) -> (Self, SharedLedger) {
        Self::new(io, Ledger::new(false))
    }

    fn new(io: T, ledger: Ledger) -> (Self, SharedLedger) {
        let ledger = SharedLedger(Arc::new(Mutex::new(ledger)));
        (Self { io, ledger: ledger.clone() }, ledger)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ledger.lock().flood.is_some() {
            return Poll::Pending;
        }
        let before = out.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, out);
        self.ledger.lock().read(&out.filled()[before..]);
        polled
    }
}

impl<T: AsyncWrite + Unpin> Metered<T> {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let mut ledger = self.ledger.lock();
        ledger.blocked = polled.is_pending();
        if let Poll::Ready(Ok(bytes)) = polled {
            ledger.wrote(*bytes);
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
