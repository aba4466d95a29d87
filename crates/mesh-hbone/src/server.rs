//! The server end: the CONNECTs of one client's agent.
//!
//! ```text
//!  request ─┬─ no CONNECT ───────────────────▶ 405, Handler::rejected(bad_request)
//!           ├─ authority is no ip:port ──────▶ 400, Handler::rejected(bad_authority)
//!           └─ InboundRequest ─▶ Handler::connect ─┬─ accept ─▶ 200, Tunnel
//!                                                  └─ refuse ─▶ status
//! ```
//!
//! The client's first data may be there before the answer: it waits in the stream's window until the tunnel is accepted,
//! and goes with it when it is refused.
//!
//! Invariants: a request that is dropped without an answer is reset; a shutdown refuses what comes later and lets run
//! what runs. Not here: who may connect where (the handler decides), and the delivery to the application.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use mesh_model::Reason;

use crate::headers::ConnectHead;
use crate::keepalive::{KeepAlive, Look};
use crate::tls::Wire;
use crate::{ServeError, ServerConfig, Shutdown, TlsStream, Tunnel, config};

#[cfg(test)]
mod tests;

/// Takes the tunnels of one connection.
pub trait Handler: Send + Sync {
    /// Answers a CONNECT and lives as long as its tunnel. Spawned as a task of its own.
    fn connect(&self, request: InboundRequest) -> BoxFuture<'static, ()>;

    /// A request that was answered without the handler: `BadRequest` or `BadAuthority`, and what was wrong with it.
    fn rejected(&self, reason: Reason, detail: &str);
}

/// A CONNECT that waits for its answer. Dropped without one, it is reset.
pub struct InboundRequest {
    head: ConnectHead,
    peer: SocketAddr,
    body: RecvStream,
    respond: SendResponse<Bytes>,
}

impl InboundRequest {
    /// Where the client wants to go.
    pub fn authority(&self) -> SocketAddr {
        self.head.authority
    }

    /// The application that dialled, as the client's agent says (port 0 where it does not say). To be believed as far as
    /// the agent is.
    pub fn forwarded_for(&self) -> Option<SocketAddr> {
        self.head.forwarded_for
    }

    /// What the client's agent says about the source workload. Informational.
    pub fn baggage(&self) -> Option<&str> {
        self.head.baggage.as_deref()
    }

    /// W3C trace context.
    pub fn traceparent(&self) -> Option<&str> {
        self.head.traceparent.as_deref()
    }

    /// The client's agent: the other end of the TCP connection.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Ready when the client has given up; pending as long as it waits.
    pub async fn cancelled(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }

    /// Takes the tunnel. The 200 goes out with the first data, in one write, or with [`Sink::open`](crate::Sink::open),
    /// which is to be called soon: a client may wait for it. If the client has given up, the tunnel's halves say so.
    pub fn accept(self) -> Tunnel {
        Tunnel::accepted(self.respond, self.body)
    }

    /// Answers with a status: 401 or 403 policy, 503 the application cannot be reached. Anything that HTTP does not know
    /// as a status becomes 503.
    pub fn refuse(mut self, status: u16) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        // Fails if the client has given up, which is as good.
        let _ = self.respond.send_response(answer(status), true);
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Serves a connection until the client closes it, it breaks, or `shutdown` and its last tunnel have come.
///
/// # Errors
/// See [`ServeError`]. A client that closes without a word is no error.
pub async fn serve_connection(
    stream: TlsStream,
    config: &ServerConfig,
    peer: SocketAddr,
    handler: Arc<dyn Handler>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let (wire, reads) = stream.share();
    let mut handshake = h2::server::Builder::new()
        .initial_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_frame_size(config.max_frame_size)
        .max_header_list_size(config.max_header_list)
        .max_send_buffer_size(config.send_buffer)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_concurrent_reset_streams(config::REMEMBERED_RESETS)
        .reset_stream_duration(config::RESET_MEMORY)
        .max_pending_accept_reset_streams(config::PENDING_RESETS)
        .max_local_error_reset_streams(Some(config::LATE_FRAMES))
        .handshake::<_, Bytes>(wire.clone());
    let handshake = poll_fn(|cx| {
        let polled = Pin::new(&mut handshake).poll(cx);
        wire.flush_turn(cx);
        polled
    });
    let mut h2 = tokio::time::timeout(config.handshake_timeout, handshake)
        .await
        .map_err(|_| ServeError::Timeout)?
        .map_err(ServeError::Http)?;
    let keepalive = KeepAlive::new(h2.ping_pong(), config.ping_interval, config.ping_timeout);
    let mut driver = Driver { h2, wire, reads, keepalive, peer, handler };
    let mut stop = pin!(shutdown.cancelled());
    let mut stopping = false;
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            driver.h2.graceful_shutdown();
        }
        let polled = driver.poll(cx);
        driver.wire.flush_turn(cx);
        polled
    })
    .await
}

struct Driver {
    h2: h2::server::Connection<Wire, Bytes>,
    wire: Wire,
    reads: Arc<AtomicU64>,
    keepalive: KeepAlive,
    peer: SocketAddr,
    handler: Arc<dyn Handler>,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        while let Poll::Ready(look) = self.keepalive.poll(cx, self.reads.load(Ordering::Relaxed)) {
            if look == Look::Dead {
                return Poll::Ready(Err(ServeError::Silent));
            }
        }
        loop {
            match ready!(self.h2.poll_accept(cx)) {
                Some(Ok((request, respond))) => self.take(request, respond),
                Some(Err(error)) => return Poll::Ready(Err(ServeError::Http(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn take(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (parts, body) = request.into_parts();
        if parts.method != Method::CONNECT {
            let _ = respond.send_response(answer(StatusCode::METHOD_NOT_ALLOWED), true);
            self.handler.rejected(Reason::BadRequest, parts.method.as_str());
            return;
        }
        match ConnectHead::parse(&parts.uri, &parts.headers) {
            Ok(head) => {
                let request = InboundRequest { head, peer: self.peer, body, respond };
                tokio::spawn(self.handler.connect(request));
            }
            Err(authority) => {
                let _ = respond.send_response(answer(StatusCode::BAD_REQUEST), true);
                self.handler.rejected(Reason::BadAuthority, &authority);
            }
        }
    }
}
