//! An application's socket and a plain TCP connection: what is outside the mesh, and what is not yet in it.
//!
//! Through one buffer per thread, from socket to socket; only what the other side does not take at once is kept. The peer
//! may be on a host that vanishes without a word: then both ends are reset (`liveness`).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use mesh_model::Reason;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::liveness::{self, Watch};
use super::socket::{Direction, Socket, finish, with_scratch};
use super::{End, Measured, Meter, Outcome, Side};

/// Relays until both ends are done or one is broken. Dropped before that, it resets both.
pub async fn relay_plain(app: TcpStream, peer: TcpStream, meter: &Meter) -> Outcome {
    let (app, peer) = (Socket::new(app), Socket::new(peer));
    liveness::keep_asking(peer.tcp());
    // Who relays has connected.
    meter.answer();
    let end = {
        let (a, p) = (app.tcp(), peer.tcp());
        let (mut up, mut down) = (Flow::default(), Flow::default());
        let mut app_dead = pin!(a.ready(Interest::ERROR));
        let mut peer_dead = pin!(p.ready(Interest::ERROR));
        let mut watch = Watch::default();
        poll_fn(|cx| {
            let end = if let Err(broke) = up.poll(cx, a, p, &meter.sent) {
                broke.end(Side::App, Side::Peer)
            } else if let Err(broke) = down.poll(cx, p, a, &meter.received) {
                broke.end(Side::Peer, Side::App)
            } else if up.ended && down.ended {
                End::Clean
            } else if !up.is_reading() && app_dead.as_mut().poll(cx).is_ready() {
                End::Reset { by: Side::App }
            } else if !down.is_reading() && peer_dead.as_mut().poll(cx).is_ready() {
                let error = p.take_error().ok().flatten();
                died(Side::Peer, error.map_or(io::ErrorKind::ConnectionReset, |error| error.kind()))
            } else if watch.poll(cx, p, meter.sent.load(Ordering::Relaxed) + u64::from(up.ended)).is_ready() {
                End::Error(Reason::PeerSilent)
            } else {
                return Poll::Pending;
            };
            Poll::Ready(end)
        })
        .await
    };
    meter.measured(Measured::of(peer.tcp()));
    if end == End::Clean {
        app.close();
        peer.close();
    }
    meter.outcome(end)
}

/// Where a flow broke, and how.
enum Broke {
    Reading(io::ErrorKind),
    Writing(io::ErrorKind),
}

impl Broke {
    fn end(self, from: Side, to: Side) -> End {
        match self {
            Self::Reading(error) => died(from, error),
            Self::Writing(error) => died(to, error),
        }
    }
}

/// A socket's error, as the end of the connection.
fn died(by: Side, error: io::ErrorKind) -> End {
    if by == Side::Peer && liveness::is_silence(error) {
        End::Error(Reason::PeerSilent)
    } else {
        End::Reset { by }
    }
}

/// One direction.
#[derive(Default)]
struct Flow {
    reader: Direction,
    writer: Direction,
    /// Read, and not taken by the other side.
    held: Bytes,
    ended: bool,
}

impl Flow {
    /// Whether a read is waited for, which tells of the end of where it comes from.
    fn is_reading(&self) -> bool {
        !self.ended && self.held.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        moved: &AtomicU64,
    ) -> Result<(), Broke> {
        while !self.ended {
            let step = if self.held.is_empty() {
                self.pass(cx, from, to)
            } else {
                let slice = [IoSlice::new(&self.held)];
                let written = self.writer.poll_write(cx, to, &slice, false);
                written.map_err(|error| Broke::Writing(error.kind())).map_ok(|n| {
                    self.held.advance(n);
                    n
                })
            };
            match step {
                Poll::Ready(Ok(n)) => moved.fetch_add(n as u64, Ordering::Relaxed),
                Poll::Ready(Err(broke)) => return Err(broke),
                Poll::Pending => break,
            };
        }
        Ok(())
    }

    /// Reads, and writes what was read. Returns what was written.
    fn pass(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<Result<usize, Broke>> {
        with_scratch(|scratch| {
            let read = match self.reader.poll_read(cx, from, scratch) {
                Poll::Ready(Ok(0)) => {
                    finish(to);
                    self.ended = true;
                    return Poll::Ready(Ok(0));
                }
                Poll::Ready(Ok(read)) => &scratch[..read],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broke::Reading(error.kind()))),
                Poll::Pending => return Poll::Pending,
            };
            let written = match self.writer.poll_write(cx, to, &[IoSlice::new(read)], false) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broke::Writing(error.kind()))),
                Poll::Pending => 0,
            };
            self.held = Bytes::copy_from_slice(&read[written..]);
            Poll::Ready(Ok(written))
        })
    }
}
