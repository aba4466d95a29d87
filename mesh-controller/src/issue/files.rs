//! The authority in files, followed: what the files say is in force within seconds, and what they cannot mean leaves the
//! last good one in force. They are the operator's (`--ca-cert`, `--ca-key`), or those that the controller made in its state
//! directory (`root.pem`, `ca.key`), which the operator may change to exchange the root.
//!
//! Certificate and key are two files, which cannot change in one step: they are read once both have stood still for a look.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::{Authority as _, BuiltinAuthority, LiveAuthority};
use mesh_model::TrustDomain;
use mesh_telemetry::shutdown::Shutdown;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::state::StateDir;

/// Two small files are read this often.
const LOOK: Duration = Duration::from_secs(1);

/// Which files, and what is theirs.
#[derive(Clone, Debug)]
pub struct Given {
    /// The certificate, each issuer up to the root, and further roots.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
}

type Content = [Option<Vec<u8>>; 2];

/// Follows the files until shutdown; `root.pem` in the state directory, which agents get, goes with them.
pub async fn follow(
    given: Given,
    live: LiveAuthority,
    state: StateDir,
    metrics: Metrics,
    shutdown: Shutdown,
) {
    let mut look = tokio::time::interval(LOOK);
    let mut in_force = given.content().await;
    let mut before = in_force.clone();
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = shutdown.wait() => return,
        }
        let now = given.content().await;
        let still = now == before;
        before.clone_from(&now);
        if !still || now == in_force {
            continue;
        }
        in_force = now;
        let opened = BuiltinAuthority::from_files(&given.cert, &given.key, &given.trust_domain);
        let rejected = match opened {
            Ok(authority) => {
                let roots = authority.roots();
                // First the trust, then what leads to it.
                let kept = state.keep_root(&roots.to_pem()).map_err(|error| crate::chain(&error));
                live.replace(Arc::new(authority));
                tracing::info!(cert = %given.cert.display(), ?roots, "the authority changed; the first of them signs");
                kept.err()
            }
            Err(error) => Some(crate::chain(&error)),
        };
        metrics.authority_rejected.set(rejected.is_some().into());
        if let Some(error) = rejected {
            tracing::error!(
                error,
                "the authority's files cannot be followed; the last good one stays in force"
            );
        }
    }
}

impl Given {
    /// The files that the flags name, or else those in the state directory.
    pub fn of(config: &Config) -> Self {
        let (cert, key) = match (&config.ca_cert, &config.ca_key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            _ => (config.state_dir.join("root.pem"), config.state_dir.join("ca.key")),
        };
        Self { cert, key, trust_domain: config.trust_domain.clone() }
    }

    async fn content(&self) -> Content {
        let (cert, key) = (tokio::fs::read(&self.cert).await, tokio::fs::read(&self.key).await);
        [cert.ok(), key.ok()]
    }
}
