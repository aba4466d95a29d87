//! The delta state machine, pure: who has what, what is still to be said, and what was acknowledged.
//!
//! ```text
//! Published ──since generation g──▶ Session::next ──Delta──▶ Replica::receive ─▶ changes
//!   (one)                             (per stream)  ◀─ack/nack─ Replica::{accept, refuse}
//! ```
//!
//! Invariants: at most one delta of a stream is unanswered; a session believes of its client only what the hello said
//! or an ack confirmed; what was refused counts as unknown on both sides and is said again. Hence a client that
//! accepted a complete delta holds exactly what was published. No clock: the caller says when to try again.

mod published;
mod replica;
mod session;

#[cfg(test)]
mod tests;

pub use published::Published;
pub use replica::{Received, Replica};
pub use session::{ProtocolError, Session};
