//! Connections about which a policy in mode Audit has spoken, until they begin: the one who judges and the one who opens do
//! not know of each other.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::connections::About;

/// More than this are about to begin at no time: what is there is left over, and goes.
const MAX: usize = 4_096;

type Ends = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(super) struct Audited {
    /// How many there are: mostly none, and then nobody waits for the lock.
    count: AtomicUsize,
    ends: Mutex<HashSet<Ends>>,
}

impl Audited {
    fn lock(&self) -> MutexGuard<'_, HashSet<Ends>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, about: &About) {
        // Seen at the connect: it has no port yet.
        if about.source.address.port() == 0 {
            return;
        }
        let mut ends = self.lock();
        if ends.len() >= MAX {
            ends.clear();
        }
        ends.insert(ends_of(about));
        self.count.store(ends.len(), Ordering::Relaxed);
    }

    pub(super) fn take(&self, about: &About) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut ends = self.lock();
        let was_there = ends.remove(&ends_of(about));
        self.count.store(ends.len(), Ordering::Relaxed);
        was_there
    }
}

fn ends_of(about: &About) -> Ends {
    (about.source.address, about.destination.address)
}
