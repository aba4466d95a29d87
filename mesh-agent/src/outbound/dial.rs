//! Reaching a peer's agent: from the source pod's own namespace and address, as the source's identity, and only if the
//! other end shows the destination's.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_hbone::{Dial, DialError, Dialed};
use mesh_identity::Keyring;
use mesh_model::Identity;
use rustls_pki_types::ServerName;

use crate::metrics::Metrics;
use crate::pods::Pod;
use crate::socket;

/// One way to a peer's agent.
pub(super) struct ToAgent<'a> {
    pub(super) pod: &'a Pod,
    pub(super) agent: SocketAddr,
    pub(super) expected: &'a Identity,
    pub(super) keyring: &'a Keyring,
    /// Where its handshake is counted.
    pub(super) metrics: &'a Metrics,
    /// Set when there is somebody to shake hands with.
    pub(super) dialled: AtomicBool,
}

impl Dial for ToAgent<'_> {
    fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>> {
        Box::pin(async move {
            if self.pod.released.is_cancelled() {
                return Err(DialError::Drained);
            }
            let tls = self
                .keyring
                .client_config(self.pod.identity(), self.expected)
                .ok_or(DialError::NoCertificate)?;
            let tcp =
                socket::connect(&self.pod.netns, self.pod.address_like(self.agent.ip()), self.agent).await?;
            self.dialled.store(true, Ordering::Relaxed);
            // The verifier goes by the identity; rustls wants a name all the same.
            let server_name = ServerName::IpAddress(self.agent.ip().into());
            Ok(Dialed { tcp, tls, server_name })
        })
    }

    fn secured(&self, took: Duration) {
        self.metrics.handshake_took("client", took);
    }
}
