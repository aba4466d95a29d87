//! Where the stream stands, for status pages and metrics.

use std::time::SystemTime;

use crate::resource::Version;

/// A snapshot of the stream's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// A stream is up and the controller accepted the hello.
    pub connected: bool,
    /// Since when it is so (up, or down).
    pub since: SystemTime,
    /// Why the last stream ended or could not be had, with its causes; kept after a reconnect.
    pub last_error: Option<String>,
    /// The version of the controller's world that the agent has in whole; of the last complete update it acknowledged.
    pub applied: Option<Version>,
    /// When the agent last acknowledged an update.
    pub applied_at: Option<SystemTime>,
    /// Updates that the agent acknowledged.
    pub updates: u64,
    /// Updates that the agent refused, or that held something unreadable.
    pub refused: u64,
    /// Streams that were accepted, this one included.
    pub connections: u64,
    /// Bytes of all messages that the controller sent, before compression, encryption and framing.
    pub received: u64,
}

impl ClientStatus {
    pub(super) fn new() -> Self {
        Self {
            connected: false,
            since: SystemTime::now(),
            last_error: None,
            applied: None,
            applied_at: None,
            updates: 0,
            refused: 0,
            connections: 0,
            received: 0,
        }
    }

    pub(super) fn connected(&mut self) {
        self.connected = true;
        self.since = SystemTime::now();
        self.connections += 1;
    }

    pub(super) fn disconnected(&mut self, error: &str) {
        if self.connected {
            self.connected = false;
            self.since = SystemTime::now();
        }
        self.last_error = Some(error.into());
    }
}
