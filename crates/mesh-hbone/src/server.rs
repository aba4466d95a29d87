//! The server end: the CONNECTs of one client's agent.
//!
//! ```text
//!  request ─┬─ reset already ────────────────▶ nothing: neither handler nor application hears of it
//!           ├─ no CONNECT ───────────────────▶ 405, Handler::rejected(bad_request)
//!           ├─ authority is no ip:port ──────▶ 400, Handler::rejected(bad_authority)
//!           └─ InboundRequest ─▶ Handler::connect ─┬─ accept ─▶ 200, Tunnel
//!                                                  └─ refuse ─▶ status
//! ```
//!
//! The client's first data may be there before the answer: it waits in the stream's window until the tunnel is accepted,
//! and goes with it when it is refused.
//!
//! A client costs what its tunnels cost and little more, whatever it does:
//!
//! ```text
//!  frames that carry nothing, requests in vain ─ beyond their allowance ─▶ GOAWAY(ENHANCE_YOUR_CALM), flood
//!  no tunnel ever asked for, or none for long ──────────────────────────▶ GOAWAY, closed
//!  silent, or reads nothing ─▶ keep-alive, TCP_USER_TIMEOUT ────────────▶ closed
//! ```
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
use tokio::time::{Instant, Sleep};

use crate::frames::{Bucket, Metered, SharedLedger};
use crate::headers::ConnectHead;
use crate::keepalive::{KeepAlive, Look};
use crate::tls::Wire;
use crate::tunnel::Unanswered;
use crate::{Link, ServeError, ServerConfig, Shutdown, TlsStream, Tunnel, config};

#[cfg(test)]
mod tests;

/// Takes the tunnels of one connection.
pub trait Handler: Send + Sync {
    /// Answers a CONNECT and lives as long as its tunnel. Spawned as a task of its own.
    fn connect(&self, request: InboundRequest) -> BoxFuture<'static, ()>;

    /// A request that was answered without the handler, and what was wrong with it: `BadRequest`, `BadAuthority`,
    /// `HeadersTooLarge` or `TooManyStreams`.
    fn rejected(&self, reason: Reason, detail: &str);
}

/// A CONNECT that waits for its answer. Dropped without one, it is reset.
pub struct InboundRequest {
    head: ConnectHead,
    peer: SocketAddr,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    /// Requests of the connection that the client gave up before they were answered.
    vain: Arc<AtomicU64>,
    link: Arc<Link>,
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
        Tunnel::accepted(Unanswered { respond: self.respond, vain: self.vain }, self.body, self.link)
    }

    /// Answers with a status: 401 or 403 policy, 503 the application cannot be reached. Anything that HTTP does not know
    /// as a status becomes 503.
    pub fn refuse(mut self, status: u16) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        // Fails if the client has given up, which is as good.
        if self.respond.send_response(answer(status), true).is_err() {
            self.vain.fetch_add(1, Ordering::Relaxed);
        }
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
    let link = wire.link();
    let (metered, ledger) = Metered::of_client(wire.clone());
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
        .handshake::<_, Bytes>(metered);
    let handshake = poll_fn(|cx| {
        let polled = Pin::new(&mut handshake).poll(cx);
        wire.flush_turn(cx);
        polled
    });
    let mut h2 = tokio::time::timeout(config.handshake_timeout, handshake)
        .await
        .map_err(|_| ServeError::Timeout)?
        .map_err(ServeError::http)?;
    let mut driver = Driver {
        keepalive: KeepAlive::new(h2.ping_pong(), config.ping_interval, config.ping_timeout),
        h2,
        wire,
        reads,
        config,
        peer,
        handler,
        ledger,
        taken: 0,
        unseen: 0,
        running: Arc::default(),
        vain: Arc::default(),
        link,
        vain_counted: 0,
        allowance: Bucket::new(config::VAIN_REQUESTS),
        quiet_since: Instant::now(),
        quiet_at: 0,
        stopping: false,
        ending: None,
    };
    let mut stop = pin!(shutdown.cancelled());
    poll_fn(|cx| {
        if !driver.stopping && stop.as_mut().poll(cx).is_ready() {
            driver.stopping = true;
            driver.h2.graceful_shutdown();
        }
        let polled = driver.poll(cx);
        driver.wire.flush_turn(cx);
        polled
    })
    .await
}

struct Driver<'a> {
    h2: h2::server::Connection<Metered<Wire>, Bytes>,
    wire: Wire,
    reads: Arc<AtomicU64>,
    keepalive: KeepAlive,
    config: &'a ServerConfig,
    peer: SocketAddr,
    handler: Arc<dyn Handler>,
    ledger: SharedLedger,
    /// Requests that h2 gave out.
    taken: u64,
    /// Requests that h2 answered by itself.
    unseen: u64,
    /// Held by each handler that runs.
    running: Arc<()>,
    /// See [`InboundRequest`].
    vain: Arc<AtomicU64>,
    link: Arc<Link>,
    /// How many of `vain` were taken from the allowance.
    vain_counted: u64,
    allowance: Bucket,
    /// Since when there has been no tunnel, as of the last look.
    quiet_since: Instant,
    /// `taken` at that look.
    quiet_at: u64,
    /// No new requests.
    stopping: bool,
    /// The connection is over, and the client is being told why.
    ending: Option<Ending>,
}

struct Ending {
    error: ServeError,
    patience: Pin<Box<Sleep>>,
    /// h2 has handed over its last frame.
    said: bool,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        if self.ending.is_some() {
            return self.poll_end(cx);
        }
        while let Poll::Ready(look) = self.keepalive.poll(cx, self.reads.load(Ordering::Relaxed)) {
            if look == Look::Dead {
                let unused = self.taken == 0;
                return Poll::Ready(Err(if unused { ServeError::Unused } else { ServeError::Silent }));
            }
            match self.quiet() {
                Some(Err(error)) => return self.hang_up(cx, h2::Reason::NO_ERROR, error),
                Some(Ok(())) => return Poll::Ready(Ok(())),
                None => {}
            }
        }
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.take(cx, request, respond),
                // Told to go, the client hung up without waiting for the last word.
                Poll::Ready(Some(Err(error))) if error.is_io() && self.stopping && self.is_idle() => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(ServeError::http(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        match self.flood() {
            Some(what) => self.hang_up(cx, h2::Reason::ENHANCE_YOUR_CALM, ServeError::Flood(what)),
            None => Poll::Pending,
        }
    }

    /// Says why, and ends the connection when the client has had the time to read that.
    fn hang_up(
        &mut self,
        cx: &mut Context<'_>,
        why: h2::Reason,
        error: ServeError,
    ) -> Poll<Result<(), ServeError>> {
        self.h2.abrupt_shutdown(why);
        let patience = Box::pin(tokio::time::sleep(config::LAST_WORD));
        self.ending = Some(Ending { error, patience, said: false });
        self.poll_end(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        let Some(ending) = &mut self.ending else { return Poll::Ready(Ok(())) };
        // Requests that were there before the GOAWAY are dropped, which resets them.
        while !ending.said
            && let Poll::Ready(accepted) = self.h2.poll_accept(cx)
        {
            ending.said = !matches!(accepted, Some(Ok(_)));
        }
        // Also when all is said: what the client has sent meanwhile is not read, and closing over it would be a RST that
        // takes along what the kernel has not sent yet.
        ready!(ending.patience.as_mut().poll(cx));
        Poll::Ready(self.ending.take().map_or(Ok(()), |ending| Err(ending.error)))
    }

    /// No handler runs.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.running) == 1
    }

    /// At a look of the keep-alive: whether the connection has been without a tunnel for too long.
    fn quiet(&mut self) -> Option<Result<(), ServeError>> {
        if self.h2.has_streams() || !self.is_idle() || self.taken != self.quiet_at {
            (self.quiet_since, self.quiet_at) = (Instant::now(), self.taken);
            return None;
        }
        let quiet = self.quiet_since.elapsed();
        if self.taken == 0 && quiet >= self.config.unused_timeout {
            return Some(Err(ServeError::Unused));
        }
        if quiet >= self.config.idle_timeout {
            if self.stopping {
                return Some(Ok(()));
            }
            // A request that is under way is answered; a client that does not hang up by the next look is hung up on.
            self.stopping = true;
            self.h2.graceful_shutdown();
        }
        None
    }

    /// After all that has come was looked at: what there was too much of.
    fn flood(&mut self) -> Option<&'static str> {
        let (flood, requests) = {
            let mut ledger = self.ledger.lock();
            (ledger.flood(), ledger.requests())
        };
        if flood.is_some() {
            return flood;
        }
        if let Some((requests, longest)) = requests {
            let unseen = requests.saturating_sub(self.taken + self.unseen);
            self.unseen += unseen;
            // Those that come after a GOAWAY are passed over as they should be.
            if unseen > 0 && !self.stopping {
                let (reason, detail) = self.guess(longest);
                for _ in 0..unseen {
                    self.handler.rejected(reason, detail);
                    if !self.allowance.take() {
                        return Some("requests beyond its bounds");
                    }
                }
            }
        }
        let vain = self.vain.load(Ordering::Relaxed);
        while self.vain_counted < vain {
            self.vain_counted += 1;
            if !self.allowance.take() {
                return Some("requests that it resets before they are answered");
            }
        }
        None
    }

    /// Why h2 answered requests by itself; it does not say.
    fn guess(&self, longest: usize) -> (Reason, &'static str) {
        if longest > self.config.max_header_list as usize / 2 {
            (Reason::HeadersTooLarge, "more headers than a request may have")
        } else if Arc::strong_count(&self.running) > self.config.max_concurrent_streams as usize {
            (Reason::TooManyStreams, "more requests at once than a connection may have")
        } else {
            (Reason::BadRequest, "a request that HTTP/2 does not allow")
        }
    }

    fn take(&mut self, cx: &mut Context<'_>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        self.taken += 1;
        if respond.poll_reset(cx).is_ready() {
            self.vain.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Streams are bounded by h2; handlers may outlive theirs for as long as an application takes to answer.
        if Arc::strong_count(&self.running) > 2 * self.config.max_concurrent_streams as usize {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return self
                .handler
                .rejected(Reason::TooManyStreams, "requests are given up faster than they end");
        }
        let (parts, body) = request.into_parts();
        if parts.method != Method::CONNECT {
            let _ = respond.send_response(answer(StatusCode::METHOD_NOT_ALLOWED), true);
            self.handler.rejected(Reason::BadRequest, parts.method.as_str());
            return;
        }
        match ConnectHead::parse(&parts.uri, &parts.headers) {
            Ok(head) => {
                let (vain, link) = (self.vain.clone(), self.link.clone());
                let request = InboundRequest { head, peer: self.peer, body, respond, vain, link };
                let handled = self.handler.connect(request);
                let running = self.running.clone();
                tokio::spawn(async move {
                    handled.await;
                    drop(running);
                });
            }
            Err(authority) => {
                let _ = respond.send_response(answer(StatusCode::BAD_REQUEST), true);
                self.handler.rejected(Reason::BadAuthority, &authority);
            }
        }
    }
}
