//! The TCP connection under tunnels, for who wants to know how it does.
//!
//! Holds nothing open and never waits: who looks while the connection is being polled, or after it is gone, sees nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, TryLockError, Weak};

use tokio::net::TcpStream;

use crate::tls::TlsStream;

/// A connection that tunnels share.
#[derive(Debug)]
pub struct Link {
    stream: Weak<Mutex<TlsStream>>,
    taken: AtomicU32,
}

impl Link {
    pub(crate) fn new(stream: Weak<Mutex<TlsStream>>) -> Self {
        Self { stream, taken: AtomicU32::new(0) }
    }

    /// Looks at the socket.
    pub fn with<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> Option<T> {
        let stream = self.stream.upgrade()?;
        match stream.try_lock() {
            Ok(stream) => Some(look(stream.tcp())),
            Err(TryLockError::Poisoned(poisoned)) => Some(look(poisoned.into_inner().tcp())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// How much of a count that only grows no other tunnel of the connection has taken.
    pub fn take(&self, total: u32) -> u32 {
        total.saturating_sub(self.taken.fetch_max(total, Ordering::Relaxed))
    }
}
