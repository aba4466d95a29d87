//! An authority that can be exchanged under way: what is signed from then on is signed by the new one.
//!
//! Whoever holds it signs with whatever is in force; whoever keeps something that follows from it (the controller's own
//! certificate, the roots for agents) waits for [`LiveAuthority::changes`].

use std::sync::Arc;
use std::time::Duration;

use mesh_model::Identity;
use tokio::sync::watch;

use super::{Authority, AuthorityError, SignedChain};
use crate::certificate::ServerCertificate;
use crate::roots::Roots;

/// A place for an authority; clones share it.
#[derive(Clone)]
pub struct LiveAuthority(Arc<watch::Sender<Arc<dyn Authority>>>);

impl LiveAuthority {
    /// Begins with this one.
    pub fn new(authority: Arc<dyn Authority>) -> Self {
        Self(Arc::new(watch::Sender::new(authority)))
    }

    /// Signs with this one from now on.
    pub fn replace(&self, authority: Arc<dyn Authority>) {
        self.0.send_replace(authority);
    }

    /// Wakes at each replacement.
    pub fn changes(&self) -> watch::Receiver<Arc<dyn Authority>> {
        self.0.subscribe()
    }

    fn current(&self) -> Arc<dyn Authority> {
        Arc::clone(&self.0.borrow())
    }
}

impl Authority for LiveAuthority {
    fn sign(
        &self,
        csr_pem: &str,
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<SignedChain, AuthorityError> {
        self.current().sign(csr_pem, identity, lifetime)
    }

    fn issue_server(&self, names: &[&str], lifetime: Duration) -> Result<ServerCertificate, AuthorityError> {
        self.current().issue_server(names, lifetime)
    }

    fn roots(&self) -> Roots {
        self.current().roots()
    }
}

impl std::fmt::Debug for LiveAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LiveAuthority").field(&self.current().roots()).finish()
    }
}
