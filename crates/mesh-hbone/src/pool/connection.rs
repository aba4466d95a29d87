//! One connection of the pool: its handshake, the leases that tunnels hold on it, and the task that drives it.
//!
//! The task holds no strong reference to the connection: pool and tunnels do, and when the last of them lets go, h2 says
//! GOAWAY and the task ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Dial;
use crate::frames::{Metered, SharedLedger};
use crate::keepalive::{KeepAlive, Look};
use crate::tls::{Wire, connect_tls, tune};
use crate::{ClientConfig, Link, OpenError, Tunnel, config};

/// What h2 gives as the peer's limit of streams until the peer's SETTINGS are there. No SETTINGS can say this much.
const UNSETTLED: usize = usize::MAX - 1;

pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    /// The peer's SETTINGS are there. Ends with the driver.
    settled: watch::Receiver<bool>,
    born: Instant,
    /// Leases out.
    streams: AtomicUsize,
    /// Milliseconds from `born` to when the last lease came back.
    idle_since: AtomicU64,
    /// Tunnels opened so far.
    opened: AtomicUsize,
    link: Arc<Link>,
}

/// A tunnel's place on a connection, given back when dropped.
pub(crate) struct Lease(Arc<Connection>);

/// What moves the bytes of a connection. To be spawned.
pub(crate) struct Driver {
    h2: h2::client::Connection<Metered<Wire>, Bytes>,
    wire: Wire,
    ledger: SharedLedger,
    reads: Arc<AtomicU64>,
    keepalive: KeepAlive,
    idle_timeout: Duration,
    connection: Weak<Connection>,
    settled: watch::Sender<bool>,
}

impl Connection {
    /// TCP, TLS and the HTTP/2 preface. The preface goes out with the first CONNECT, in one write.
    pub(crate) async fn make(
        dial: &dyn Dial,
        config: &ClientConfig,
    ) -> Result<(Arc<Self>, Driver), OpenError> {
        let dialed = dial.dial().await.map_err(OpenError::Dial)?;
        tune(&dialed.tcp, config.tcp_user_timeout, config.tcp_notsent_lowat)
            .map_err(|error| OpenError::Dial(error.into()))?;
        let began = Instant::now();
        let tls = connect_tls(dialed.tcp, dialed.tls, dialed.server_name).await?;
        dial.secured(began.elapsed());
        let (wire, reads) = tls.share();
        let (metered, ledger) = Metered::of_server(wire.clone());
        let (requests, mut h2) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(config.connection_window)
            .max_frame_size(config.max_frame_size)
            .max_header_list_size(config.max_header_list)
            .max_send_buffer_size(config.send_buffer)
            .initial_max_send_streams(UNSETTLED)
            .max_concurrent_reset_streams(config::REMEMBERED_RESETS)
            .reset_stream_duration(config::RESET_MEMORY)
            .max_pending_accept_reset_streams(config::PENDING_RESETS)
            .max_local_error_reset_streams(Some(config::LATE_FRAMES))
            .handshake(metered)
            .await
            .map_err(|error| OpenError::Http(Arc::new(error)))?;
        let keepalive = KeepAlive::new(h2.ping_pong(), config.ping_interval, config.ping_timeout);
        let (settled, settling) = watch::channel(false);
        let connection = Arc::new(Self {
            requests,
            settled: settling,
            born: Instant::now(),
            streams: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            opened: AtomicUsize::new(0),
            link: wire.link(),
        });
        let driver = Driver {
            h2,
            wire,
            ledger,
            reads,
            keepalive,
            idle_timeout: config.idle_timeout,
            connection: Arc::downgrade(&connection),
            settled,
        };
        Ok((connection, driver))
    }

    /// A place for one more tunnel, if there are fewer than `bound` and the peer takes one more. Until it has said how
    /// many it takes, that is one: what goes above its limit is refused, and there may be data behind it already.
    pub(crate) fn lease(self: &Arc<Self>, bound: usize) -> Option<Lease> {
        let bound = match self.requests.current_max_send_streams() {
            UNSETTLED => 1,
            said => bound.min(said),
        };
        // Leases are given under the pool's lock, so this cannot overshoot.
        if self.streams.load(Ordering::Acquire) >= bound {
            return None;
        }
        self.streams.fetch_add(1, Ordering::AcqRel);
        Some(Lease(self.clone()))
    }

    /// Turns true with the peer's SETTINGS; None where they are there.
    pub(crate) fn settling(&self) -> Option<watch::Receiver<bool>> {
        (self.requests.current_max_send_streams() == UNSETTLED).then(|| self.settled.clone())
    }

    /// Tunnels on it.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Acquire)
    }

    /// No tunnel has been opened on it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.opened.load(Ordering::Relaxed) == 0
    }

    fn idle_for(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since.load(Ordering::Acquire));
        (self.streams() == 0).then(|| self.born.elapsed().saturating_sub(since))
    }
}

impl Lease {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.0
    }

    /// Puts a CONNECT on the connection. An error means that nothing of it was sent.
    pub(crate) fn request(self, request: http::Request<()>) -> Result<Tunnel, h2::Error> {
        let (response, stream) = self.0.requests.clone().send_request(request, false)?;
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        let link = self.0.link.clone();
        Ok(Tunnel::requested(response, stream, self, link))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = self.0.born.elapsed().as_millis() as u64;
        self.0.idle_since.store(now, Ordering::Release);
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Driver {
    /// Until the connection is closed or dead. `remove_idle` takes it out of the pool if nobody uses it.
    pub(crate) async fn run(mut self, remove_idle: impl Fn(&Arc<Connection>)) {
        // Lets those who waited for the connection put their CONNECT beside the preface.
        tokio::task::yield_now().await;
        let ended = poll_fn(|cx| {
            while let Poll::Ready(look) = self.keepalive.poll(cx, self.reads.load(Ordering::Relaxed)) {
                if look == Look::Dead {
                    return Poll::Ready(Err("silent"));
                }
                if let Some(connection) = self.connection.upgrade()
                    && connection.idle_for().is_some_and(|idle| idle >= self.idle_timeout)
                {
                    // Dropping it, as the pool now has, makes h2 close.
                    remove_idle(&connection);
                }
            }
            let polled = Pin::new(&mut self.h2).poll(cx);
            if !*self.settled.borrow() && self.h2.max_concurrent_send_streams() != UNSETTLED {
                self.settled.send_replace(true);
            }
            self.wire.flush_turn(cx);
            if self.ledger.lock().flood().is_some() {
                return Poll::Ready(Err("floods"));
            }
            polled.map(|result| {
                result.map_err(|error| {
                    tracing::debug!(error = &error as &dyn std::error::Error, "tunnel connection failed");
                    "failed"
                })
            })
        })
        .await;
        tracing::debug!(end = ended.err().unwrap_or("closed"), "tunnel connection ended");
    }
}
