//! How an end stops: one token that every task watches, and a count of those that still have something to finish.
//!
//! ```text
//! SIGTERM, SIGINT ──▶ Shutdown::trigger ──▶ wait() returns in every task
//!                                            └▶ each finishes, drops its Hold ──▶ drained() returns
//! a second signal ──▶ exit at once, 128 + signal
//! ```
//!
//! Invariants: a token never goes back; cloning shares it. Not here: what draining means to a connection (the end's).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[cfg(test)]
mod tests;

/// Tells every task that the process stops. Clones are the same token.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Whether it has been triggered.
    triggered: Arc<watch::Sender<bool>>,
    /// How many [`Hold`]s are alive.
    held: Arc<watch::Sender<usize>>,
}

/// Keeps [`Shutdown::drained`] waiting until it is dropped.
#[derive(Debug)]
pub struct Hold {
    /// The count it is part of.
    held: Arc<watch::Sender<usize>>,
}

/// Time ran out with tasks still holding on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} tasks did not finish within {} s", .within.as_secs_f32())]
pub struct NotDrained {
    /// How many did not finish.
    pub held: usize,
    /// How long they had.
    pub within: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that nobody has triggered.
    pub fn new() -> Self {
        Self { triggered: Arc::new(watch::Sender::new(false)), held: Arc::new(watch::Sender::new(0)) }
    }

    /// Triggers it. More than once is the same as once.
    pub fn trigger(&self) {
        self.triggered.send_replace(true);
    }

    /// Whether it has been triggered.
    pub fn is_triggered(&self) -> bool {
        *self.triggered.borrow()
    }

    /// Returns once it is triggered; at once if it was before. Cancel-safe.
    pub async fn wait(&self) {
        // An error means that the sender is gone, and `self` is one.
        let _ = self.triggered.subscribe().wait_for(|triggered| *triggered).await;
    }

    /// Asks [`Shutdown::drained`] to wait for whoever holds the answer.
    pub fn hold(&self) -> Hold {
        self.held.send_modify(|held| *held += 1);
        Hold { held: self.held.clone() }
    }

    /// Returns once every [`Hold`] is dropped, or with how many are left when `within` is over.
    pub async fn drained(&self, within: Duration) -> Result<(), NotDrained> {
        let mut held = self.held.subscribe();
        match tokio::time::timeout(within, held.wait_for(|held| *held == 0)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(NotDrained { held: *self.held.borrow(), within }),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.send_modify(|held| *held -= 1);
    }
}

/// A token that SIGTERM or SIGINT triggers. A second signal ends the process at once, for whoever has no patience
/// with the draining. Needs a tokio runtime.
pub fn signals() -> io::Result<Shutdown> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let shutdown = Shutdown::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let (name, number) = tokio::select! {
                _ = term.recv() => ("SIGTERM", libc::SIGTERM),
                _ = int.recv() => ("SIGINT", libc::SIGINT),
            };
            if token.is_triggered() {
                tracing::warn!(signal = name, "second signal: stopping at once");
                std::process::exit(128 + number);
            }
            tracing::info!(signal = name, "stopping");
            token.trigger();
        }
    });
    Ok(shutdown)
}
