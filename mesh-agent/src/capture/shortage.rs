//! Out of descriptors: one is kept in reserve, with which connections can be refused instead of left to hang.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::quiet::Quiet;

/// The reserve, and what was said.
#[derive(Debug)]
pub(super) struct Shortage {
    reserve: Mutex<Reserve>,
    failures: Quiet,
    turned_away: Quiet,
}

#[derive(Debug)]
enum Reserve {
    /// Any open file will do.
    Kept(#[expect(dead_code, reason = "it is held open, not read")] File),
    /// Somebody refuses connections with it.
    Lent,
    /// It could not be taken back.
    Missing,
}

/// The reserve in use; taken back when dropped.
pub(super) struct Lent<'a>(&'a Shortage);

/// Whether an accept failed because there are no more descriptors, for this process or on the machine.
pub(super) fn of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Shortage {
    pub(super) fn new() -> Self {
        Self {
            reserve: Mutex::new(Reserve::take()),
            failures: Quiet::default(),
            turned_away: Quiet::default(),
        }
    }

    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the reserve for whoever holds the answer. `None`: it is in use, or could not be taken back.
    pub(super) fn lend(&self) -> Option<Lent<'_>> {
        let mut reserve = self.reserve();
        match &*reserve {
            Reserve::Lent => None,
            Reserve::Kept(_) => {
                *reserve = Reserve::Lent;
                Some(Lent(self))
            }
            Reserve::Missing => {
                // A descriptor that is free now is one to refuse with next time.
                *reserve = Reserve::take();
                None
            }
        }
    }

    /// Logs a failed accept, once a second.
    pub(super) fn name(&self, pod: &str, port: u32, error: &io::Error) {
        if let Some(failures) = self.failures.due() {
            tracing::warn!(pod, port, %error, failures, "cannot accept; connections wait");
        }
    }

    /// Logs a connection that has waited in vain, once a second.
    pub(super) fn name_turned_away(&self, pod: &str, port: u32) {
        if let Some(refused) = self.turned_away.due() {
            let reason = mesh_model::Reason::Exhausted.as_str();
            tracing::warn!(
                pod,
                port,
                reason,
                refused,
                "no descriptor left for connections that waited; refused"
            );
        }
    }
}

impl Reserve {
    fn take() -> Self {
        File::open("/dev/null").map_or(Self::Missing, Self::Kept)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        *self.0.reserve() = Reserve::take();
    }
}

#[cfg(test)]
mod tests;
