//! No two connections of an application seem to come from the same address and port.
//!
//! A client pod's source port may be in use towards several capture ports at once, so that two of its connections to one
//! server share it; and applications keep their clients by address. The second one gets the next free port instead, which is as good
//! as any that the kernel might have chosen.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Of every delivery that is under way: where to, and who the application is told dialled. Held for an insert or a removal.
static TAKEN: LazyLock<Mutex<HashSet<(SocketAddr, SocketAddr)>>> = LazyLock::new(Mutex::default);

/// Ports below are not for clients.
const LOWEST: u16 = 1024;

/// A client's address at one application, for as long as the connection lives.
#[derive(Debug)]
pub struct Claim {
    to: SocketAddr,
    client: SocketAddr,
}

impl Claim {
    /// The client's own address, or the next free port of it.
    pub(super) fn new(to: SocketAddr, client: SocketAddr) -> Self {
        let mut taken = taken();
        let mut told = client;
        for _ in LOWEST..=u16::MAX {
            if taken.insert((to, told)) {
                break;
            }
            told.set_port(told.port().wrapping_add(1).max(LOWEST));
        }
        Self { to, client: told }
    }

    /// Who the application is told dialled.
    pub(super) fn client(&self) -> SocketAddr {
        self.client
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        taken().remove(&(self.to, self.client));
    }
}

fn taken() -> MutexGuard<'static, HashSet<(SocketAddr, SocketAddr)>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}
