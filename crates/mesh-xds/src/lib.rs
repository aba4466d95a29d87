//! The wire between the controller and the agents.
//!
//! ```text
//! World changes ─▶ delta::Published ─▶ delta::Session ══ Delta ══▶ delta::Replica ─▶ Update ─▶ the agent's World
//!                                      (one per stream) ◀═ Ack/Nack ══           ◀─ ack/nack ─┘
//!                  captures, releases  ◀═════ CaptureReports ═════  Client::report
//!                  who talks to whom   ◀═════ Observations ═══════  Client::observed
//! ```
//!
//! The exchange has the shape of incremental xDS (subscribe, ack, nack, resume) with resource types of its own.
//! Versions are content hashes, so an agent that reconnects, to whichever replica, is sent only what differs; and one that
//! kept its world on disk ([`snapshot`]) needs no version kept beside it.
//!
//! Invariants: [`delta`] is pure, and holds that a client that acknowledged a complete delta has exactly what was
//! published; nothing that arrives can panic; a token leaves the node only towards a server whose certificate was
//! verified. Not here: what a controller makes its world of, and what an agent does with it.

pub mod client;
pub mod delta;
pub mod proto;
pub mod resource;
mod seen;
pub mod server;
pub mod snapshot;

pub use client::{Capture, Client, ClientConfig, ClientStatus, Event, Receipt, SignError, Update};
pub use resource::{Name, Resource, Version};
pub use seen::{NotSeen, Seen};

/// The name that the controller's certificate carries, and that agents ask for.
pub const CONTROLLER_NAME: &str = "weft-controller.weft-system.svc";

/// The port that the controller listens on by default.
pub const CONTROLLER_PORT: u16 = 15010;

/// No message may be larger, in bytes: twice a hello that holds 100,000 names.
const MAX_MESSAGE: usize = 16 << 20;

/// An error and all its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
