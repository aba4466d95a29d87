//! Puts the parts together, runs them, and stops them.
//!
//! ```text
//!            ┌─ FilesHome (--dir): everything is there at the start
//! Shell ─────┤
//!            └─ KubernetesHome: listens at once, serves when the first world is whole
//! ```
//!
//! The shell is what both homes have: the listeners, the hub, the metrics, the readiness.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use mesh_identity::LiveAuthority;
use mesh_identity::tls::{self, CertSource};
use mesh_model::TrustDomain;
use mesh_telemetry::http::tls::{MutualTls, TlsFiles};
use mesh_telemetry::http::{Routes, Server};
use mesh_telemetry::listen;
use mesh_telemetry::metrics::Registry;
use mesh_telemetry::readiness::{Condition, Ready};
use mesh_telemetry::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::admin;
use crate::config::Config;
use crate::index::Captures;
use crate::issue;
use crate::metrics::Metrics;
use crate::publish::{ControlService, Hub, watch_for_agentless};
use crate::watch::Asker;

mod authority;
mod error;
mod files;
mod kubernetes;

pub use error::RunError;
use files::FilesHome;
use kubernetes::KubernetesHome;

/// So long everything may take to stop.
const STOP: Duration = Duration::from_secs(3);
/// The controller's own certificate: no agent keeps it, so a day costs nothing.
const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A controller that listens, and serves once it is run.
pub struct Controller {
    shell: Shell,
    home: Home,
}

enum Home {
    Files(Box<FilesHome>),
    Kubernetes(Box<KubernetesHome>),
}

/// What both homes have.
struct Shell {
    shutdown: Shutdown,
    ready: Ready,
    /// Agents are served.
    serving: Condition,
    listener: TcpListener,
    listen: SocketAddr,
    /// Servers and what they answer; the second is the metrics'.
    admin: Vec<(Server, Routes)>,
    hub: Arc<Hub>,
    metrics: Metrics,
    trust_domain: Arc<OnceLock<TrustDomain>>,
    /// Who follows the files, where there are any.
    files: Arc<OnceLock<Asker>>,
}

/// What serving agents takes beyond a listener.
struct Serving {
    control: ControlService,
    tls: Arc<rustls::ServerConfig>,
    renewal: (LiveAuthority, Arc<CertSource>, SystemTime),
}

impl Controller {
    /// Reads, checks and binds; what is wrong with the configuration shows here. Needs a tokio runtime.
    pub async fn open(config: &Config, shutdown: Shutdown) -> Result<Self, RunError> {
        let listener = async |captures| Shell::open(config, captures, shutdown.clone()).await;
        let (shell, home) = match &config.dir {
            Some(dir) => {
                let (prepared, captures) = FilesHome::prepare(config, dir)?;
                let shell = listener(captures).await?;
                let home = prepared.open(config, &shell)?;
                (shell, Home::Files(Box::new(home)))
            }
            None => {
                let client = crate::cluster::connect(config).await?;
                let shell = listener(Captures::default()).await?;
                let home = KubernetesHome::new(client, config, &shell)?;
                (shell, Home::Kubernetes(Box::new(home)))
            }
        };
        Ok(Self { shell, home })
    }

    /// Where agents are served (the port that was chosen for port 0).
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shell.listener.local_addr()
    }

    /// Where metrics are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.shell.admin.get(1)?.0.local_addr()
    }

    /// The conditions of `/readyz`.
    pub fn ready(&self) -> &Ready {
        &self.shell.ready
    }

    /// Serves until shutdown.
    pub async fn run(mut self) -> Result<(), RunError> {
        self.shell.serve_admin();
        match self.home {
            Home::Files(home) => home.run(self.shell).await,
            Home::Kubernetes(home) => home.run(self.shell).await,
        }
    }
}

impl Shell {
    async fn open(config: &Config, captures: Captures, shutdown: Shutdown) -> Result<Self, RunError> {
        let mut registry = Registry::new();
        let metrics = Metrics::register(&mut registry);
        let registry = Arc::new(registry);
        let ready = Ready::new();
        let serving = ready.condition("serving", "the controller to listen");
        let hub = Hub::new(captures, metrics.clone());
        let (trust_domain, files) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let answers = || {
            let about = admin::About {
                hub: hub.clone(),
                trust_domain: trust_domain.clone(),
                system_namespace: config.namespace.clone(),
                files: files.clone(),
            };
            admin::admin_routes(about, &ready, registry.clone())
        };
        let remote: Vec<_> = remote(config)?.into_iter().map(|server| (server, answers())).collect();
        let mut admin = vec![
            (Server::unix(&config.admin_socket)?, answers()),
            (Server::tcp(config.metrics_listen)?, admin::metrics_routes(&ready, registry.clone())),
        ];
        // The standalone home has it on the metrics' port.
        if config.dir.is_none() {
            admin.push((Server::tcp(config.ready_listen)?, admin::ready_routes(&ready)));
        }
        admin.extend(remote);
        let failed = |source| RunError::Listen { addr: config.listen, source };
        let listener = listen::tcp(config.listen).and_then(TcpListener::from_std).map_err(failed)?;
        let listen = listener.local_addr().unwrap_or(config.listen);
        Ok(Self { shutdown, ready, serving, listener, listen, admin, hub, metrics, trust_domain, files })
    }

    fn serve_admin(&mut self) {
        for (server, routes) in std::mem::take(&mut self.admin) {
            let (stop, hold) = (self.shutdown.clone(), self.shutdown.hold());
            tokio::spawn(async move {
                if let Err(error) = server.serve(routes, stop).await {
                    tracing::error!(%error, "an admin listener failed");
                }
                drop(hold);
            });
        }
    }

    /// It is known from now on.
    fn trust_domain_is(&self, trust_domain: &TrustDomain) {
        // Once in a process's life.
        let _ = self.trust_domain.set(trust_domain.clone());
    }

    /// Whoever asks for policies hears of those that were written by then.
    fn files_are(&self, asker: Asker) {
        // Once in a process's life.
        let _ = self.files.set(asker);
    }

    /// Serves agents until shutdown.
    async fn serve(self, serving: Serving, home: &str) -> Result<(), RunError> {
        let Serving { control, tls, renewal: (authority, certificates, not_after) } = serving;
        let shutdown = self.shutdown;
        tokio::spawn(issue::renew(authority, SERVER_LIFETIME, certificates, not_after, shutdown.clone()));
        tokio::spawn(watch_for_agentless(self.hub.clone(), shutdown.clone()));
        let stop = shutdown.clone();
        let serving = tokio::spawn(mesh_xds::server::serve(self.listener, tls, control, async move {
            stop.wait().await;
        }));
        self.serving.met();
        let (workloads, services) = self.hub.counts();
        let trust_domain = self.trust_domain.get().map(TrustDomain::as_str).unwrap_or_default();
        tracing::info!(home, listen = %self.listen, trust_domain, workloads, services, "ready");
        let served = tokio::select! {
            served = serving => served,
            // Streams end by themselves at shutdown; an agent that does not read must not hold us up.
            () = async { shutdown.wait().await; tokio::time::sleep(STOP).await } => Ok(Ok(())),
        };
        shutdown.trigger();
        if let Err(error) = shutdown.drained(STOP).await {
            tracing::warn!(%error, "stopping all the same");
        }
        served.unwrap_or(Ok(())).map_err(RunError::Serve)
    }
}

/// Where else than on its socket the controller answers meshctl (ADR 26).
fn remote(config: &Config) -> Result<Vec<Server>, RunError> {
    let mut servers = Vec::new();
    if let (Some(addr), Some(cert), Some(key), Some(ca)) =
        (config.admin_listen, &config.admin_cert, &config.admin_key, &config.admin_client_ca)
    {
        let files = TlsFiles { cert: cert.clone(), key: key.clone(), ca: ca.clone() };
        servers.push(Server::tls(addr, MutualTls::open(files).map_err(RunError::AdminTls)?)?);
    }
    if config.admin_loopback_port > 0 {
        servers.push(Server::loopback(config.admin_loopback_port)?);
    }
    Ok(servers)
}

impl Serving {
    /// The controller's own certificate, and who is served what.
    fn new(authority: LiveAuthority, control: ControlService) -> Result<Self, RunError> {
        let certificate =
            issue::server_certificate(&authority, SERVER_LIFETIME).map_err(RunError::Authority)?;
        let certificates = Arc::new(CertSource::for_server(&certificate));
        let tls = tls::control_server_config_with(certificates.clone()).map_err(RunError::Tls)?;
        Ok(Self { control, tls, renewal: (authority, certificates, certificate.not_after()) })
    }
}
