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
mod measure;
mod plain;
mod socket;
mod tunnel;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mesh_model::Reason;

use measure::Measured;
pub use plain::relay_plain;
pub use tunnel::relay;

#[cfg(test)]
mod tests;

/// What a connection has done so far. Readable while the relay runs.
#[derive(Debug)]
pub struct Meter {
    /// When the application dialled, or was dialled.
    began: Instant,
    /// Microseconds from then until its peer had answered, and one; zero before.
    answered: AtomicU32,
    /// Of what leads to the peer, at the end: the kernel's smoothed round-trip time, in microseconds; zero where it has none.
    round_trip: AtomicU32,
    /// Likewise: segments sent again that no other connection has been charged with.
    retransmits: AtomicU32,
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
    /// The peer's agent answered with this HTTP status.
    Refused {
        /// None of 2xx.
        status: u16,
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

impl Default for Meter {
    fn default() -> Self {
        Self::since(Instant::now())
    }
}

impl Meter {
    /// Of a connection that began then.
    pub fn since(began: Instant) -> Self {
        Self {
            began,
            answered: AtomicU32::new(0),
            round_trip: AtomicU32::new(0),
            retransmits: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// When the application dialled, or was dialled.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// How long it was until its peer had answered, if it has.
    pub fn answered(&self) -> Option<Duration> {
        let micros = self.answered.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(micros.into()))
    }

    /// The smoothed round-trip time of what led to the peer, once it has ended.
    pub fn round_trip(&self) -> Option<Duration> {
        let micros = self.round_trip.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros.into()))
    }

    /// Segments that were sent again, once it has ended.
    pub fn retransmits(&self) -> u32 {
        self.retransmits.load(Ordering::Relaxed)
    }

    fn answer(&self) {
        let micros = u32::try_from(self.began.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.answered.store(micros.saturating_add(1), Ordering::Relaxed);
    }

    fn measured(&self, measured: Measured) {
        self.round_trip.store(measured.round_trip, Ordering::Relaxed);
        self.retransmits.store(measured.retransmits, Ordering::Relaxed);
    }

    fn outcome(&self, end: End) -> Outcome {
        let (sent, received) = (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed));
        Outcome { sent, received, end }
    }
}
