//! What can be turned on the wire, for each end. Sizes are bytes.
//!
//! Invariant of the defaults: the connection's window is the stream's window times the streams that the pool puts on a
//! connection, so that any number of applications may stop reading and the others still go on.

use std::time::Duration;

const STREAM_WINDOW: u32 = 2 << 20;
const STREAMS_PER_CONNECTION: usize = 128;
const FRAME_SIZE: u32 = 64 << 10;
const SEND_BUFFER: usize = 256 << 10;

/// How the client end behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What one tunnel may have received and not yet delivered. Bounds its throughput to this much per round trip.
    pub stream_window: u32,
    /// The same for all tunnels of a connection together. Below `stream_window * max_streams_per_connection`, tunnels
    /// whose applications do not read can stop the others.
    pub connection_window: u32,
    /// The largest DATA frame taken from the peer (RFC 9113, section 4.2; 16 KiB to 16 MiB).
    pub max_frame_size: u32,
    /// What one tunnel may have queued for sending within the peer's window before its sender has to wait.
    pub send_buffer: usize,
    /// The largest list of headers taken from the peer.
    pub max_header_list: u32,
    /// Tunnels on a connection before another one is opened. The peer's own limit holds too, where it is lower.
    pub max_streams_per_connection: usize,
    /// Connections per key. When all are full, further tunnels are put on them up to the peer's own limit.
    pub max_connections_per_key: usize,
    /// Silence after which the peer is asked whether it is there (HTTP/2 PING).
    pub ping_interval: Duration,
    /// Silence after the PING at which the connection counts as dead. A peer is known to be gone within twice the
    /// interval plus this.
    pub ping_timeout: Duration,
    /// How long a connection without tunnels is kept. Noticed at the next look, up to `ping_interval` later.
    pub idle_timeout: Duration,
    /// For the TCP connection, the TLS handshake and the HTTP/2 preface together.
    pub handshake_timeout: Duration,
    /// How long the kernel waits for an acknowledgement of what was sent (TCP_USER_TIMEOUT).
    pub tcp_user_timeout: Duration,
    /// What may lie unsent in the kernel (TCP_NOTSENT_LOWAT): a request waits behind this much bulk at most.
    pub tcp_notsent_lowat: Option<u32>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            stream_window: STREAM_WINDOW,
            connection_window: STREAM_WINDOW * STREAMS_PER_CONNECTION as u32,
            max_frame_size: FRAME_SIZE,
            send_buffer: SEND_BUFFER,
            max_header_list: 16 << 10,
            max_streams_per_connection: STREAMS_PER_CONNECTION,
            max_connections_per_key: 64,
            ping_interval: Duration::from_secs(8),
            ping_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(90),
            handshake_timeout: Duration::from_secs(10),
            tcp_user_timeout: Duration::from_secs(20),
            tcp_notsent_lowat: Some(256 << 10),
        }
    }
}

/// How the server end behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// As [`ClientConfig::stream_window`].
    pub stream_window: u32,
    /// As [`ClientConfig::connection_window`]. Covers a Weft client's streams; a foreign client that opens more can
    /// hold up its own.
    pub connection_window: u32,
    /// As [`ClientConfig::max_frame_size`].
    pub max_frame_size: u32,
    /// As [`ClientConfig::send_buffer`].
    pub send_buffer: usize,
    /// As [`ClientConfig::max_header_list`]; a request with more is answered 431.
    pub max_header_list: u32,
    /// Streams that a client may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS); more are refused.
    pub max_concurrent_streams: u32,
    /// As [`ClientConfig::ping_interval`].
    pub ping_interval: Duration,
    /// As [`ClientConfig::ping_timeout`].
    pub ping_timeout: Duration,
    /// For the TLS handshake, and again for the HTTP/2 preface.
    pub handshake_timeout: Duration,
    /// How long a connection on which no tunnel was ever asked for is kept: a client asks with its first flight. Noticed
    /// at the next look, up to `ping_interval` later, as the next one is.
    pub unused_timeout: Duration,
    /// How long a connection is kept that has no tunnel any more. Longer than clients keep them, so that it is the client
    /// that closes.
    pub idle_timeout: Duration,
    /// As [`ClientConfig::tcp_user_timeout`].
    pub tcp_user_timeout: Duration,
    /// As [`ClientConfig::tcp_notsent_lowat`].
    pub tcp_notsent_lowat: Option<u32>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let client = ClientConfig::default();
        Self {
            stream_window: client.stream_window,
            connection_window: client.connection_window,
            max_frame_size: client.max_frame_size,
            send_buffer: client.send_buffer,
            max_header_list: client.max_header_list,
            max_concurrent_streams: 1000,
            ping_interval: client.ping_interval,
            ping_timeout: client.ping_timeout,
            handshake_timeout: client.handshake_timeout,
            unused_timeout: Duration::from_secs(20),
            idle_timeout: 4 * client.idle_timeout,
            tcp_user_timeout: client.tcp_user_timeout,
            tcp_notsent_lowat: client.tcp_notsent_lowat,
        }
    }
}

/// Streams reset by this end whose late frames are taken in silence. Beyond it they are answered one by one.
pub(crate) const REMEMBERED_RESETS: usize = 4096;

/// How long they are remembered: a round trip and a peer's full send queue.
pub(crate) const RESET_MEMORY: Duration = Duration::from_secs(10);

/// Streams that the peer may reset before this end has looked at them: a burst of clients that give up at once is
/// normal behind a proxy, and must not end the connection for the others (h2's own limit is 20).
pub(crate) const PENDING_RESETS: usize = 2000;

/// Late frames, over the life of a connection, on streams that this end has forgotten. Each costs an answer of 13
/// bytes, so that a peer that makes nothing else is cut off, but not a connection that lived for months.
pub(crate) const LATE_FRAMES: usize = 1 << 20;

/// What a client may send at once of frames that carry nothing (PING, SETTINGS, PRIORITY …), and per second from then on.
/// A peer that probes for bandwidth sends a PING per round trip at most.
pub(crate) const EMPTY_FRAMES: Allowance = Allowance { burst: 10_000, per_second: 1000 };

/// The same of WINDOW_UPDATE, beside the one for each [`BYTES_PER_UPDATE`] that it was sent.
pub(crate) const UPDATES: Allowance = Allowance { burst: 10_000, per_second: 1000 };

/// Less than the smallest DATA frame of use, which some clients answer one by one.
pub(crate) const BYTES_PER_UPDATE: usize = 32;

/// The same of requests that come to nothing: reset before they were answered, or beyond a bound of the connection. A
/// client that checks whether ports are open makes many of the first kind.
pub(crate) const VAIN_REQUESTS: Allowance = Allowance { burst: 5000, per_second: 500 };

/// How long a peer's agent may take to answer a CONNECT: it gives the application 30 s.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a client that is cut off may take to read why.
pub(crate) const LAST_WORD: Duration = Duration::from_secs(1);

/// So many at once, and so many per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}
