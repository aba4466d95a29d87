//! HBONE, the wire between two agents: mutual TLS 1.3 that carries HTTP/2, in which every application connection is one
//! `CONNECT` stream. Same wire as Istio's ztunnel and waypoints, so either can be on the other end.
//!
//! ```text
//!  outbound                                                        inbound
//!  Pool::open ─▶ SendHalf ─┐                                 ┌─▶ RecvHalf ─▶ Handler::connect
//!                RecvHalf ◀┤ h2 ─ TlsStream ═ port 15008 ═ TlsStream ─ h2 ├◀─ SendHalf
//!                          └── one driver task ──    ── serve_connection ─┘
//! ```
//!
//! Folders: [`Pool`] (client), [`serve_connection`] (server), [`Tunnel`] and its halves, [`TlsStream`] (what stands
//! between h2 and the socket), `frames` (what a client sends too much of), `headers` (what a CONNECT says), `keepalive` (who is still there).
//!
//! Invariants:
//! - A tunnel ends cleanly only by END_STREAM. A reset, a broken connection, or a connection that the peer closed is an
//!   error to the reader, whatever arrived before it.
//! - Nothing here buffers without a bound: data that the peer has not granted stays with the caller, data that the
//!   application has not taken stays within the stream's window, and a stream that nobody reads cannot take the window
//!   of its neighbours (the connection's window covers all streams that the pool puts on it).
//! - One TLS write per turn of a connection's driver, however many streams sent in that turn.
//!
//! Not here: who the peer is and whether it may connect (the TLS configs are handed in, the handler decides), how the
//! peer is reached (`Dial` is handed in), and the copying of bytes between tunnel and application (the agent's relay).

mod config;
mod error;
mod frames;
mod headers;
mod keepalive;
mod link;
mod pool;
mod server;
mod tls;
mod tunnel;

#[cfg(test)]
mod testkit;

pub use config::{ClientConfig, ServerConfig};
pub use error::{AcceptError, DialError, OpenError, RecvError, SendError, ServeError};
pub use headers::ConnectRequest;
pub use link::Link;
pub use pool::{Dial, Dialed, KeyStats, Pool};
pub use server::{Handler, InboundRequest, serve_connection};
pub use tls::{TlsStream, accept_tls, connect_tls};
pub use tunnel::{Duplex, RecvHalf, ResetCode, SendHalf, Sink, Source, Tunnel};

/// Tells a server connection to finish: no new streams, the running ones end in their own time.
pub use tokio_util::sync::CancellationToken as Shutdown;

/// The port that HBONE listens on.
pub const PORT: u16 = 15008;

/// The protocol that both ends must agree on in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"h2";
