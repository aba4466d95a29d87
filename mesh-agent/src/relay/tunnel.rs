//! An application's socket and a tunnel.
//!
//! ```text
//!  up:    reading ──data──▶ holding (waits for capacity) ──▶ reading ──FIN──▶ ended (END_STREAM sent)
//!  down:  flowing ──END_STREAM──▶ draining the backlog ──▶ ended (FIN sent)
//! ```
//!
//! Who notices a dead end: a reset of the tunnel comes out of the source as long as that is open, then out of the sink;
//! a RST of the application comes out of a read while one is waited for, else out of a watch on the socket's errors.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use mesh_hbone::{Duplex, RecvError, ResetCode, SendError, Sink, Source};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::backlog::{Backlog, SLICES};
use super::socket::{Direction, READ_SIZE, Socket, finish, with_scratch};
use super::{End, Measured, Meter, Outcome, Side};
use crate::pace::{self, Beat};

/// A read of this size makes the next one go to a buffer of its own, which is handed on without a copy.
const BULK: usize = 16 << 10;

/// Gathered from the tunnel before it is written.
const GATHER: usize = 64 << 10;

/// Relays until both ends are done or one is broken. Dropped before that, it resets both.
pub async fn relay<T: Duplex>(app: TcpStream, tunnel: T, meter: &Meter) -> Outcome {
    let (mut sink, mut source) = tunnel.split();
    let app = Socket::new(app);
    let end = {
        let tcp = app.tcp();
        let (mut up, mut down) = (Up::default(), Down::default());
        let beat = Beat::new();
        // Whoever answers at once answers within one breath, and the peer hears all of it together.
        let mut breath = pin!(pace::breath());
        let (mut opened, mut answered) = (false, false);
        let mut dead = pin!(tcp.ready(Interest::ERROR));
        poll_fn(|cx| {
            let came = down.poll(cx, tcp, &mut source, meter, &beat, up.ended);
            if !answered && source.is_answered() {
                answered = true;
                meter.answer();
            }
            if let Err(end) = came {
                return Poll::Ready(end);
            }
            match up.poll(cx, tcp, &mut sink, meter, &beat) {
                Ok(()) => {}
                // The peer has said all it had to say and then hung up: the application gets all of it first.
                Err(End::Clean | End::Reset { by: Side::Peer } | End::Error(_)) if down.is_draining() => {}
                Err(end) => return Poll::Ready(end),
            }
            if !opened && breath.as_mut().poll(cx).is_ready() {
                opened = true;
                sink.open();
            }
            if down.ended {
                if up.ended {
                    return Poll::Ready(End::Clean);
                }
                if let Poll::Ready(error) = sink.poll_reset(cx) {
                    return Poll::Ready(sent(error));
                }
            }
            if !up.is_reading() && dead.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Reset { by: Side::App });
            }
            Poll::Pending
        })
        .await
    };
    if let Some(link) = source.link()
        && let Some(measured) = link.with(Measured::of)
    {
        meter.measured(Measured { retransmits: link.take(measured.retransmits), ..measured });
    }
    match end {
        End::Clean => app.close(),
        End::Reset { .. } | End::Refused { .. } | End::Error(_) => sink.reset(ResetCode::Cancel),
    }
    meter.outcome(end)
}

fn sent(error: SendError) -> End {
    match error {
        SendError::Reset(_) => End::Reset { by: Side::Peer },
        // Comes after its clean end alone; without one, the source has said before that it was cut off. As over TCP, the
        // application gets all of it, and hears of the rest when it goes on sending.
        SendError::Unwanted => End::Clean,
        SendError::Broken(_) | SendError::Ended => End::Error(error.reason()),
    }
}

fn received(error: RecvError) -> End {
    match error {
        RecvError::Reset(_) => End::Reset { by: Side::Peer },
        RecvError::Refused { status } => End::Refused { status },
        RecvError::Broken(_) => End::Error(error.reason()),
    }
}

/// From the application into the tunnel.
#[derive(Default)]
struct Up {
    reader: Reader,
    /// Read, and not yet granted by the peer.
    held: Bytes,
    ended: bool,
}

impl Up {
    /// Whether a read is waited for, which tells of the application's end.
    fn is_reading(&self) -> bool {
        !self.ended && self.held.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        sink: &mut impl Sink,
        meter: &Meter,
        beat: &Beat,
    ) -> Result<(), End> {
        while !self.ended {
            if self.held.is_empty() {
                match self.reader.poll(cx, tcp) {
                    Poll::Ready(Ok(data)) if data.is_empty() => {
                        sink.send(Bytes::new(), true).map_err(sent)?;
                        self.ended = true;
                        break;
                    }
                    Poll::Ready(Ok(data)) => self.held = data,
                    Poll::Ready(Err(_)) => return Err(End::Reset { by: Side::App }),
                    Poll::Pending => break,
                }
            }
            match sink.poll_capacity(cx, self.held.len()) {
                Poll::Ready(Ok(granted)) => {
                    let now = self.held.split_to(granted.min(self.held.len()));
                    meter.sent.fetch_add(now.len() as u64, Ordering::Relaxed);
                    beat.moved(now.len());
                    sink.send(now, false).map_err(sent)?;
                }
                Poll::Ready(Err(error)) => return Err(sent(error)),
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}

/// Reads in pieces that can be handed on. Holds nothing between two reads.
#[derive(Default)]
struct Reader {
    direction: Direction,
    /// The last read was large.
    bulk: bool,
}

impl Reader {
    /// An empty piece is FIN.
    fn poll(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<io::Result<Bytes>> {
        if !self.bulk {
            return with_scratch(|scratch| {
                let read = self.direction.poll_read(cx, tcp, scratch);
                read.map_ok(|n| {
                    self.bulk = n >= BULK;
                    Bytes::copy_from_slice(&scratch[..n])
                })
            });
        }
        let mut buffer = BytesMut::with_capacity(READ_SIZE);
        let read = self.direction.poll_read_buf(cx, tcp, &mut buffer);
        read.map_ok(|n| {
            self.bulk = n >= BULK;
            // A small piece must not hold a large buffer while it waits for the peer.
            if self.bulk { buffer.freeze() } else { Bytes::copy_from_slice(&buffer) }
        })
    }
}

/// From the tunnel to the application.
#[derive(Default)]
struct Down {
    writer: Direction,
    backlog: Backlog,
    /// The source has said its clean end.
    complete: bool,
    /// And the application has been told.
    ended: bool,
}

impl Down {
    /// The peer has said all; the application has not got all.
    fn is_draining(&self) -> bool {
        self.complete && !self.ended
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        source: &mut impl Source,
        meter: &Meter,
        beat: &Beat,
        app_ended: bool,
    ) -> Result<(), End> {
        while !self.ended {
            self.gather(cx, source, GATHER)?;
            if self.backlog.is_empty() {
                if self.complete {
                    // Where the application has ended too, closing its socket says as much.
                    if !app_ended {
                        finish(tcp);
                    }
                    self.ended = true;
                }
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.backlog.slices(&mut slices);
            match self.writer.poll_write(cx, tcp, &slices[..count], self.complete && count < SLICES) {
                Poll::Ready(Ok(written)) => {
                    self.backlog.advance(written);
                    source.release(written);
                    beat.moved(written);
                    meter.received.fetch_add(written as u64, Ordering::Relaxed);
                }
                Poll::Ready(Err(_)) => return Err(End::Reset { by: Side::App }),
                Poll::Pending => {
                    // What is in the tunnel moves here, to see what comes behind it, and to put small pieces together.
                    // The peer's window is its bound.
                    self.gather(cx, source, usize::MAX)?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn gather(&mut self, cx: &mut Context<'_>, source: &mut impl Source, limit: usize) -> Result<(), End> {
        while !self.complete && self.backlog.len() < limit {
            match source.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.backlog.push(data),
                Poll::Ready(Some(Err(error))) => return Err(received(error)),
                Poll::Ready(None) => self.complete = true,
                Poll::Pending => break,
            }
        }
        Ok(())
    }
}
