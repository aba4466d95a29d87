//! Who is connected to a server, and who has to go when there are too many.
//!
//! ```text
//! accept ──▶ Crowd::enter ──▶ Place ── room() ──▶ handler ──▶ answers(n) ──▶ Watched::poll_flush ──▶ delivered()
//!              │ full: the one that has done nothing for longest is asked to leave
//!              └ room(): too many bytes under way: the slowest reader is
//! ```
//!
//! Invariants: nobody who connects waits for somebody who does nothing. A connection has at most one answer under way; what all of them
//! hold is bounded by [`BYTES`] and one answer of each thread that makes one. Whoever is asked to leave is counted as gone at once.
//! Not here: how long a request's head and body may take (`server`).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Connections at once. A further one takes the place of the one that has waited for its client longest.
pub(super) const CONNECTIONS: usize = 256;
/// Bytes of answers that were made and not yet taken, of all connections. An answer with 20,000 series has 5 MB.
const BYTES: usize = 64 << 20;
/// How long an answer may be under way when others wait for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it may be in any case.
const DELIVERY: Duration = Duration::from_secs(30);
/// How often who waits looks again.
const AGAIN: Duration = Duration::from_millis(50);

/// The connections of one server.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    next: u64,
    by_id: HashMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    /// Since when nothing has happened: it came, it asked, or its last answer was made or delivered.
    since: Instant,
    /// Its answer is being made: it waits for us.
    asked: bool,
    /// Bytes of the answer under way.
    bytes: usize,
    leave: Arc<Notify>,
}

impl Crowd {
    /// A place for one more.
    pub(super) fn enter(self: &Arc<Self>) -> Arc<Place> {
        let mut clients = self.clients();
        // Those that wait for us only where nobody else is there.
        while clients.by_id.len() >= CONNECTIONS
            && (clients.send_away(|client| !client.asked, Duration::ZERO)
                || clients.send_away(|_| true, Duration::ZERO))
        {}
        let id = clients.next;
        clients.next += 1;
        let leave = Arc::new(Notify::new());
        clients
            .by_id
            .insert(id, Client { since: Instant::now(), asked: false, bytes: 0, leave: leave.clone() });
        drop(clients);
        Arc::new(Place {
            crowd: self.clone(),
            id,
            leave,
            under_way: AtomicBool::new(false),
            delivered: Notify::new(),
        })
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// Asks the one of `those` that has waited longest to leave, if that is `patience` at least.
    fn send_away(&mut self, those: impl Fn(&Client) -> bool, patience: Duration) -> bool {
        let slowest =
            self.by_id.iter().filter(|(_, client)| those(client)).min_by_key(|(_, client)| client.since);
        let Some((id, _)) = slowest.filter(|(_, client)| client.since.elapsed() >= patience) else {
            return false;
        };
        let id = *id;
        if let Some(client) = self.by_id.remove(&id) {
            client.leave.notify_one();
        }
        true
    }
}

/// One connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    id: u64,
    leave: Arc<Notify>,
    under_way: AtomicBool,
    delivered: Notify,
}

impl Place {
    /// Until an answer may be made: the connection's last one is taken, and those of others leave room.
    pub(super) async fn room(&self) {
        while self.under_way.load(Ordering::Acquire) {
            self.delivered.notified().await;
        }
        while self.crowded() {
            tokio::time::sleep(AGAIN).await;
        }
        self.set(true, 0);
    }

    fn crowded(&self) -> bool {
        let mut clients = self.crowd.clients();
        while clients.by_id.values().map(|client| client.bytes).sum::<usize>() >= BYTES {
            if !clients.send_away(|client| client.bytes > 0, PATIENCE) {
                return true;
            }
        }
        false
    }

    /// An answer of so many bytes is on its way.
    pub(super) fn answers(&self, bytes: usize) {
        self.set(false, bytes);
        self.under_way.store(true, Ordering::Release);
    }

    /// All that was written is with the system.
    fn delivered(&self) {
        if self.under_way.swap(false, Ordering::AcqRel) {
            self.set(false, 0);
            self.delivered.notify_one();
        }
    }

    fn set(&self, asked: bool, bytes: usize) {
        if let Some(client) = self.crowd.clients().by_id.get_mut(&self.id) {
            (client.asked, client.bytes, client.since) = (asked, bytes, Instant::now());
        }
    }

    /// Until the connection has to go: somebody needs its place, or its client takes no answer.
    pub(super) async fn taken(&self) {
        loop {
            if tokio::time::timeout(DELIVERY / 6, self.leave.notified()).await.is_ok() {
                return;
            }
            let stuck = |client: &Client| {
                self.under_way.load(Ordering::Acquire) && client.since.elapsed() >= DELIVERY
            };
            if self.crowd.clients().by_id.get(&self.id).is_none_or(stuck) {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.clients().by_id.remove(&self.id);
    }
}

/// A connection that tells its place when all that was written to it is gone.
#[derive(Debug)]
pub(super) struct Watched<S> {
    /// The connection.
    pub(super) stream: S,
    /// Its place.
    pub(super) place: Arc<Place>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Hyper flushes what lies below it only after its own buffer has gone there.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.place.delivered();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
