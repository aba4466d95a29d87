//! The home in Kubernetes: everything comes from the API, and may come late.
//!
//! ```text
//! listeners ─▶ trust domain (MeshConfig) ─▶ authority ─▶ watches, this replica's Lease ─▶ first world ─▶ agents are served
//! ```
//!
//! Each step waits for the API server, says once what it waits for, and shows it at `/readyz`. Agents that come early wait
//! in the listener's queue: to serve them from a world that is not whole would tell them that everything is gone.

use std::sync::Arc;

use kube::Client;
use mesh_telemetry::readiness::Condition;

use super::{RunError, STOP, Serving, Shell};
use crate::config::Config;
use crate::issue::Issuer;
use crate::issue::secret::{self, SecretAuthority, SecretConfig};
use crate::publish::{Callers, ControlService, ReviewConfig, Reviews, Tokens};
use crate::reconcile::{Board, Reconcile, mesh_config};
use crate::watch::kubernetes::{self, WatchConfig};

/// A client and what to do with it.
pub(super) struct KubernetesHome {
    client: Client,
    config: Config,
    callers: Callers,
    /// There is something to sign with.
    authority: Condition,
    /// The first world is published.
    world: Condition,
    /// The other replicas know of this one.
    replica: Condition,
}

impl KubernetesHome {
    /// Checks what can be checked without the API server.
    pub(super) fn new(client: Client, config: &Config, shell: &Shell) -> Result<Self, RunError> {
        let callers = match &config.agent_tokens {
            Some(file) => Callers::File(Tokens::open(file)?),
            None => {
                let Config { token_audience, namespace, agent_service_account, .. } = config;
                let config = ReviewConfig::new(token_audience, namespace, agent_service_account);
                Callers::Reviewed(Reviews::new(client.clone(), config))
            }
        };
        let authority = shell.ready.condition("authority", "the Secret with the authority");
        let world = shell.ready.condition("world", "the API server's first list of every kind");
        let replica = shell.ready.condition("replica", "this replica's Lease");
        Ok(Self { client, config: config.clone(), callers, authority, world, replica })
    }

    /// Watches, serves, and writes what there is to write, until shutdown.
    pub(super) async fn run(self, shell: Shell) -> Result<(), RunError> {
        let shutdown = shell.shutdown.clone();
        let Self { client, config, callers, authority, world, replica } = self;
        let start = async {
            let configured = mesh_config::at_start(&client, &world).await;
            let trust_domain = configured.trust_domain.unwrap_or_else(|| config.trust_domain.clone());
            shell.trust_domain_is(&trust_domain);
            let secret = SecretConfig {
                namespace: config.namespace.clone(),
                secret: config.ca_secret.clone(),
                config_map: config.roots_config_map.clone(),
                replica: config.replica(),
                trust_domain: trust_domain.clone(),
                look: secret::LOOK,
            };
            let opened = SecretAuthority::open(client.clone(), secret).await?;
            authority.met();
            let signing = opened.authority();
            let issuer =
                Issuer::new(Arc::new(signing.clone()), configured.lifetime.unwrap_or(config.cert_lifetime));
            let board = Arc::new(Board::new(trust_domain.clone(), shell.hub.clone()));
            let control = ControlService::new(shell.hub.clone(), callers, issuer.clone(), shutdown.clone());
            let serving = Serving::new(signing, control)?;
            tokio::spawn(opened.follow(shell.metrics.clone(), shutdown.clone()));
            let reconcile = Reconcile {
                client: client.clone(),
                hub: shell.hub.clone(),
                board: board.clone(),
                metrics: shell.metrics.clone(),
                namespace: config.namespace.clone(),
                replica: config.replica(),
                issuer,
                lifetime: config.cert_lifetime,
                log_format: config.log_format,
                shutdown: shutdown.clone(),
            };
            let watch =
                WatchConfig { reading: config.reading(&trust_domain), namespace: config.namespace.clone() };
            let first =
                kubernetes::follow(client, watch, shell.hub.clone(), board, shell.metrics.clone(), &shutdown);
            let registered = reconcile.spawn();
            first.published(&world).await;
            registered.wait(&replica).await;
            Ok::<_, RunError>(serving)
        };
        let serving = tokio::select! {
            started = start => started?,
            () = shutdown.wait() => {
                if let Err(error) = shutdown.drained(STOP).await {
                    tracing::warn!(%error, "stopping all the same");
                }
                return Ok(());
            }
        };
        shell.serve(serving, "Kubernetes").await
    }
}
