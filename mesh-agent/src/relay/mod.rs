//! Copies bytes between an application's socket and what leads to its peer: a tunnel, or a plain TCP connection.
//!
//! ```text
//!             ┌── up:   read ──▶ capacity? ──▶ send ──┐
//!  app socket ┤                                       ├ tunnel (Source + Sink), or another socket
//!             └── down: write ◀── backlog ◀── data ───┘
//! ```
//!
//! What TCP users expect holds across it:
//! - Half-close: a FIN ends one direction, the other goes on as long as it likes.
//! - A reset of either end, and a tunnel that breaks or is refused, is a RST at the other end, at once and also while
//!   nothing is being sent. Never is one of these a clean end; nor is a relay that is dropped half-way.
//! - Back-pressure: an application that does not read holds back its peer and nobody else.
//!
//! Invariants: an idle connection holds no buffer (reads go through one buffer per thread until they are large); what is
//! held per direction is bounded by one read and by the tunnel's window; the relay knows tunnels by [`mesh_hbone::Source`]
//! and [`mesh_hbone::Sink`] only. Not here: who may connect, and what is counted under which labels.

mod backlog;
mod liveness;
mod plain;
mod socket;
mod tunnel;

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_model::Reason;

pub use plain::relay_plain;
pub use tunnel::relay;

#[cfg(test)]
mod tests;

/// Bytes moved so far. Readable while the relay runs.
#[derive(Debug, Default)]
pub struct Meter {
    /// From the application to its peer: taken by the tunnel or the peer's socket.
    pub sent: AtomicU64,
    /// From the peer to the application: taken by the application's socket.
    pub received: AtomicU64,
}

/// An end of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application whose socket is relayed.
    App,
    /// What it talks to.
    Peer,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both ends sent FIN.
    Clean,
    /// One end reset it.
    Reset {
        /// Which one.
        by: Side,
    },
    /// The way between them failed.
    Error(Reason),
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes from the application.
    pub sent: u64,
    /// Bytes to the application.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

impl Meter {
    fn outcome(&self, end: End) -> Outcome {
        let (sent, received) = (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed));
        Outcome { sent, received, end }
    }
}
