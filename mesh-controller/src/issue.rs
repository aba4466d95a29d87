//! Certificates: who may have which, and the controller's own.
//!
//! An agent gets a certificate for an identity only while an unfinished pod of its node runs as that identity; the
//! request's own claims count for nothing. Signing itself is the authority's, behind a trait; which one that is may change
//! under way (`secret`, `files`). Not here: keys of
//! workloads, which never leave their node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use mesh_identity::tls::CertSource;
use mesh_identity::{Authority, AuthorityError, LiveAuthority, ServerCertificate};
use mesh_model::Identity;
use mesh_telemetry::shutdown::Shutdown;

use crate::index::NotOnNode;
use crate::publish::Hub;

pub mod files;
pub mod secret;

#[cfg(test)]
mod tests;

/// The names that the controller's certificate carries.
const NAMES: &[&str] = &[mesh_xds::CONTROLLER_NAME, "weft-controller", "localhost"];
/// After a renewal of the controller's own certificate failed.
const AGAIN: Duration = Duration::from_secs(60);

/// Signs for agents; clones share the lifetime.
#[derive(Clone)]
pub struct Issuer {
    authority: Arc<dyn Authority>,
    /// How long a workload's certificate is good, in seconds; clones share it.
    lifetime: Arc<AtomicU64>,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignRefusal {
    /// No such pod on the caller's node.
    #[error(transparent)]
    NotOnNode(#[from] NotOnNode),
    /// The request is no good.
    #[error("the signing request cannot be used")]
    BadRequest(#[source] AuthorityError),
    /// The authority could not sign.
    #[error("the authority cannot sign")]
    Authority(#[source] AuthorityError),
}

impl Issuer {
    /// Signs with an authority, for a lifetime.
    pub fn new(authority: Arc<dyn Authority>, lifetime: Duration) -> Self {
        Self { authority, lifetime: Arc::new(AtomicU64::new(lifetime.as_secs())) }
    }

    /// How long certificates are good from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        if self.lifetime.swap(lifetime.as_secs(), Ordering::Relaxed) != lifetime.as_secs() {
            tracing::info!(seconds = lifetime.as_secs(), "lifetime of workloads' certificates");
        }
    }

    /// How long certificates are good.
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime.load(Ordering::Relaxed))
    }

    /// Signs a request of a node for an identity. The chain, PEM.
    pub fn sign(
        &self,
        hub: &Hub,
        node: &str,
        identity: &Identity,
        csr_pem: &str,
    ) -> Result<String, SignRefusal> {
        hub.may_have(node, identity)?;
        match self.authority.sign(csr_pem, identity, self.lifetime()) {
            Ok(chain) => Ok(chain.into_pem()),
            Err(error @ (AuthorityError::Csr(_) | AuthorityError::ForeignIdentity { .. })) => {
                Err(SignRefusal::BadRequest(error))
            }
            Err(error) => Err(SignRefusal::Authority(error)),
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("lifetime", &self.lifetime()).finish_non_exhaustive()
    }
}

impl SignRefusal {
    /// The word for it in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOnNode(_) => "not_on_node",
            Self::BadRequest(_) => "bad_request",
            Self::Authority(_) => "authority",
        }
    }

    /// With its causes, on one line.
    pub fn in_words(&self) -> String {
        crate::chain(self)
    }
}

/// The controller's own certificate.
pub fn server_certificate(
    authority: &dyn Authority,
    lifetime: Duration,
) -> Result<ServerCertificate, AuthorityError> {
    authority.issue_server(NAMES, lifetime)
}

/// Renews the controller's own certificate at half its life, and at once where another authority signs, until shutdown.
pub fn renew(
    authority: LiveAuthority,
    lifetime: Duration,
    source: Arc<CertSource>,
    mut not_after: SystemTime,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send {
    let mut changes = authority.changes();
    // Between the making of the certificate and now it may have changed: one certificate too many costs nothing.
    changes.mark_changed();
    async move {
        loop {
            let left = not_after.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep((left / 2).max(Duration::from_secs(1))) => {}
                // Never closed: we hold a share.
                _ = changes.changed() => {}
                () = shutdown.wait() => return,
            }
            match server_certificate(&authority, lifetime) {
                Ok(certificate) => {
                    not_after = certificate.not_after();
                    source.replace_server(&certificate);
                    tracing::info!(serial = certificate.serial(), "renewed the controller's own certificate");
                }
                Err(error) => {
                    tracing::error!(
                        error = crate::chain(&error),
                        "cannot renew the controller's own certificate"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(AGAIN) => {}
                        _ = changes.changed() => changes.mark_changed(),
                        () = shutdown.wait() => return,
                    }
                }
            }
        }
    }
}
