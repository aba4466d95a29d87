//! One application connection on the wire: a half to send and a half to receive, each polled by its user.
//!
//! [`Source`] and [`Sink`] are the seam: the relay knows nothing else, so that another kind of tunnel can stand beside
//! HBONE without the relay noticing. [`Duplex`] is a tunnel that has both.
//!
//! Invariants:
//! - `None` from a source, and nothing else, is a clean end.
//! - A sink takes what the peer has granted; its user keeps the rest, and does not read more from its own side.
//! - Bytes that a source gave out count against the peer's window until `release`.
//! - A half that is dropped before its end resets the tunnel, when the other half is gone too.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use tokio::time::Sleep;

use crate::config::ANSWER_TIMEOUT;
use crate::pool::Lease;
use crate::{Link, RecvError, SendError};

/// Less than the window that every peer begins with (RFC 9113, section 6.9.2).
const FIRST_FLIGHT: usize = 16 << 10;

/// What comes out of a tunnel.
pub trait Source: Send {
    /// The next bytes; `None` is the peer's clean end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RecvError>>>;

    /// Lets the peer send as many bytes more: they were given to the application.
    fn release(&mut self, bytes: usize);

    /// Whether the peer has said that the tunnel stands.
    fn is_answered(&self) -> bool {
        true
    }

    /// The connection that the tunnel is on, where there is one to look at.
    fn link(&self) -> Option<&Link> {
        None
    }
}

/// What goes into a tunnel.
pub trait Sink: Send {
    /// How many bytes may be sent now, at least one, of the `want` that are there. Asking reserves them on the
    /// connection: ask for what is at hand, and send it.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, SendError>>;

    /// Tells the peer that the tunnel stands, unless it knows: what is sent says so too, in the same write.
    fn open(&mut self);

    /// Queues bytes; `end` says that no more will come. An end needs no capacity.
    fn send(&mut self, data: Bytes, end: bool) -> Result<(), SendError>;

    /// Ends the tunnel in both directions; what is queued is dropped.
    fn reset(&mut self, code: ResetCode);

    /// Ready when the peer has reset the tunnel or the connection broke, also when nothing is being sent.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<SendError>;
}

/// A tunnel in one piece.
pub trait Duplex {
    /// Its sending half.
    type Sink: Sink;
    /// Its receiving half.
    type Source: Source;

    /// Takes it apart.
    fn split(self) -> (Self::Sink, Self::Source);
}

/// Why this end resets a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// The application reset its connection, or nobody wants the tunnel any more. On the wire CONNECT_ERROR (RFC 9113,
    /// section 8.5): ztunnel takes CANCEL and NO_ERROR for a clean end of stream.
    Cancel,
    /// The connection to the application broke for a reason of this node's.
    Internal,
}

/// An HBONE tunnel.
pub struct Tunnel {
    send: SendHalf,
    recv: RecvHalf,
}

/// Sends into an HBONE tunnel.
pub struct SendHalf {
    state: SendState,
    /// What may be sent before the peer has granted anything: h2 grants nothing to a stream whose CONNECT is not out, and
    /// the first words are to go with it. Held back by h2 where the peer's window is smaller still.
    first_flight: usize,
    ended: bool,
    _lease: Option<Arc<Lease>>,
}

enum SendState {
    /// The server's end; the client waits for the 200, which goes out with the first data.
    Unanswered(Unanswered),
    Open(SendStream<Bytes>),
    /// The tunnel was dead before it could be answered.
    Dead,
}

/// Receives from an HBONE tunnel.
pub struct RecvHalf {
    state: RecvState,
    link: Arc<Link>,
    _lease: Option<Arc<Lease>>,
}

enum RecvState {
    /// The peer has not answered the CONNECT, and may take so long.
    Awaiting(ResponseFuture, Pin<Box<Sleep>>),
    Open(RecvStream),
    /// The peer refused, or the error was told.
    Over,
}

/// A CONNECT that was taken and not answered.
pub(crate) struct Unanswered {
    pub(crate) respond: SendResponse<Bytes>,
    /// Requests of the connection that the client gave up before they were answered.
    pub(crate) vain: Arc<AtomicU64>,
}

impl Tunnel {
    /// The client's end, unanswered.
    pub(crate) fn requested(
        response: ResponseFuture,
        stream: SendStream<Bytes>,
        lease: Lease,
        link: Arc<Link>,
    ) -> Self {
        let lease = Some(Arc::new(lease));
        Self {
            send: SendHalf {
                state: SendState::Open(stream),
                first_flight: FIRST_FLIGHT,
                ended: false,
                _lease: lease.clone(),
            },
            recv: RecvHalf {
                state: RecvState::Awaiting(response, Box::pin(tokio::time::sleep(ANSWER_TIMEOUT))),
                link,
                _lease: lease,
            },
        }
    }

    /// The server's end, unanswered.
    pub(crate) fn accepted(unanswered: Unanswered, body: RecvStream, link: Arc<Link>) -> Self {
        Self {
            send: SendHalf {
                state: SendState::Unanswered(unanswered),
                first_flight: 0,
                ended: false,
                _lease: None,
            },
            recv: RecvHalf { state: RecvState::Open(body), link, _lease: None },
        }
    }

    /// Waits for the peer's answer. Data may be sent before it.
    ///
    /// # Errors
    /// `Refused` where the answer is not 2xx; else why there is none.
    pub async fn response(&mut self) -> Result<(), RecvError> {
        std::future::poll_fn(|cx| self.recv.poll_response(cx)).await
    }
}

impl Duplex for Tunnel {
    type Sink = SendHalf;
    type Source = RecvHalf;

    fn split(self) -> (SendHalf, RecvHalf) {
        (self.send, self.recv)
    }
}

impl RecvHalf {
    /// Ready when the peer has answered.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        let RecvState::Awaiting(response, patience) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let answer = match Pin::new(response).poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                ready!(patience.as_mut().poll(cx));
                self.state = RecvState::Over;
                return Poll::Ready(Err(RecvError::unanswered()));
            }
        };
        self.state = RecvState::Over;
        let response = answer?;
        if !response.status().is_success() {
            return Poll::Ready(Err(RecvError::Refused { status: response.status().as_u16() }));
        }
        self.state = RecvState::Open(response.into_body());
        Poll::Ready(Ok(()))
    }
}

impl Source for RecvHalf {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RecvError>>> {
        loop {
            match &mut self.state {
                RecvState::Awaiting(..) => {
                    if let Err(error) = ready!(self.poll_response(cx)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                RecvState::Open(body) => match ready!(body.poll_data(cx)) {
                    // Frames without content are legal and say nothing.
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Ok(data)) => return Poll::Ready(Some(Ok(data))),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    None => return Poll::Ready(None),
                },
                RecvState::Over => {
                    let error: h2::Error = h2::Reason::CANCEL.into();
                    return Poll::Ready(Some(Err(RecvError::Broken(Arc::new(error)))));
                }
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        if let RecvState::Open(body) = &mut self.state {
            // Fails only for more than was received, which is no more than the window that is already open.
            let _ = body.flow_control().release_capacity(bytes);
        }
    }

    fn is_answered(&self) -> bool {
        matches!(self.state, RecvState::Open(_))
    }

    fn link(&self) -> Option<&Link> {
        Some(&self.link)
    }
}

impl SendHalf {
    fn stream(&mut self) -> Result<&mut SendStream<Bytes>, SendError> {
        if self.ended {
            return Err(SendError::Ended);
        }
        self.open();
        match &mut self.state {
            SendState::Open(stream) => Ok(stream),
            SendState::Unanswered(_) | SendState::Dead => Err(dead()),
        }
    }
}

impl Sink for SendHalf {
    fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Result<usize, SendError>> {
        if self.first_flight > 0 && !self.ended {
            return Poll::Ready(Ok(want.clamp(1, self.first_flight)));
        }
        let stream = self.stream()?;
        stream.reserve_capacity(want.max(1));
        loop {
            let granted = stream.capacity();
            if granted > 0 {
                return Poll::Ready(Ok(granted));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                // Closed: by what, only this tells.
                None => {
                    return match self.poll_reset(cx) {
                        Poll::Ready(error) => Poll::Ready(Err(error)),
                        Poll::Pending => Poll::Ready(Err(SendError::Ended)),
                    };
                }
            }
        }
    }

    fn open(&mut self) {
        if let SendState::Unanswered(Unanswered { respond, vain }) = &mut self.state {
            self.state = match respond.send_response(http::Response::new(()), false) {
                Ok(stream) => SendState::Open(stream),
                // The client has given up, which the next use says.
                Err(_) => {
                    vain.fetch_add(1, Ordering::Relaxed);
                    SendState::Dead
                }
            };
        }
    }

    fn send(&mut self, data: Bytes, end: bool) -> Result<(), SendError> {
        self.stream()?.send_data(data, end)?;
        self.first_flight = 0;
        self.ended = end;
        Ok(())
    }

    fn reset(&mut self, code: ResetCode) {
        self.ended = true;
        let reason = match code {
            ResetCode::Cancel => h2::Reason::CONNECT_ERROR,
            ResetCode::Internal => h2::Reason::INTERNAL_ERROR,
        };
        match &mut self.state {
            SendState::Unanswered(unanswered) => unanswered.respond.send_reset(reason),
            SendState::Open(stream) => stream.send_reset(reason),
            SendState::Dead => {}
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        let reset = match &mut self.state {
            SendState::Unanswered(unanswered) => unanswered.respond.poll_reset(cx),
            SendState::Open(stream) => stream.poll_reset(cx),
            SendState::Dead => return Poll::Ready(dead()),
        };
        Poll::Ready(match ready!(reset) {
            Ok(h2::Reason::NO_ERROR) => SendError::Unwanted,
            Ok(reason) => SendError::Reset(Arc::new(h2::Error::from(reason))),
            Err(error) => error.into(),
        })
    }
}

/// The client had given up before this end answered.
fn dead() -> SendError {
    let error: h2::Error = h2::Reason::CANCEL.into();
    SendError::Reset(Arc::new(error))
}
