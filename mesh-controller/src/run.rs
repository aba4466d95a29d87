//! Puts the parts together, runs them, and stops them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_identity::tls::{self, CertSource};
use mesh_identity::{Authority as _, AuthorityError, BuiltinAuthority, TlsError};
use mesh_telemetry::http::{BindError, Server};
use mesh_telemetry::metrics::Registry;
use mesh_telemetry::readiness::Ready;
use mesh_telemetry::shutdown::Shutdown;
use tokio::net::TcpListener;

use crate::admin;
use crate::config::Config;
use crate::issue::{self, Issuer};
use crate::metrics::Metrics;
use crate::publish::{ControlService, Hub, TokenError, Tokens};
use crate::state::{self, StateDir, StateError};
use crate::watch::{FilesConfig, FilesError, Source};

/// So long everything may take to stop.
const STOP: Duration = Duration::from_secs(3);
/// The controller's own certificate: no agent keeps it, so a day costs nothing.
const SERVER_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory of objects.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The operator's authority.
    #[error("cannot use the authority given by --ca-cert and --ca-key")]
    GivenAuthority(#[source] AuthorityError),
    /// An authority is given, and there is another one in the state directory.
    #[error(
        "{} holds an authority of its own (ca.key, root.pem) beside the one given by --ca-cert: move those two files away, or choose another --state-dir",
        .0.display()
    )]
    TwoAuthorities(PathBuf),
    /// The authority in the state directory.
    #[error("cannot open the authority in the state directory")]
    Authority(#[source] AuthorityError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The controller's own certificate.
    #[error("cannot make the controller's TLS configuration")]
    Tls(#[source] TlsError),
    /// An admin or metrics listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The agents' listener.
    #[error(
        "cannot listen on {addr}: is another controller running there? (--listen chooses another address)"
    )]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Serving ended.
    #[error("serving agents failed")]
    Serve(#[source] tonic::transport::Error),
}

impl RunError {
    /// The process's exit code: 2 where the operator gave something wrong, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Files(FilesError::Directory { .. })
            | Self::Tokens(_)
            | Self::GivenAuthority(_)
            | Self::TwoAuthorities(_) => 2,
            Self::Files(FilesError::Inotify(_) | FilesError::Thread(_))
            | Self::Authority(_)
            | Self::State(_)
            | Self::Tls(_)
            | Self::Bind(_)
            | Self::Listen { .. }
            | Self::Serve(_) => 1,
        }
    }
}

/// A controller that has read its files and listens, and serves once it is run.
pub struct Controller {
    shutdown: Shutdown,
    ready: Ready,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    control: ControlService,
    admin: (Server, Server),
    routes: (mesh_telemetry::http::Routes, mesh_telemetry::http::Routes),
    batches: tokio::sync::mpsc::Receiver<crate::watch::Batch>,
    stop_watching: crate::watch::files::Stop,
    hub: Arc<Hub>,
    state_dir: StateDir,
    renewal: (Arc<BuiltinAuthority>, Arc<CertSource>, std::time::SystemTime),
}

impl Controller {
    /// Reads, checks and binds everything; what is wrong with the configuration shows here. Needs a tokio runtime.
    pub async fn open(config: &Config, shutdown: Shutdown) -> Result<Self, RunError> {
        let tokens = Tokens::open(&config.agent_tokens)?;
        let files = FilesConfig { directory: config.dir.clone(), trust_domain: config.trust_domain.clone() };
        let (source, first) = Source::open(files)?;
        let state_dir = StateDir::open(&config.state_dir)?;
        let authority = Arc::new(open_authority(config)?);
        let root = authority.roots().to_pem();
        if config.ca_cert.is_some() && state_dir.holds_another_authority(&root) {
            return Err(RunError::TwoAuthorities(config.state_dir.clone()));
        }
        state_dir.keep_root(&root)?;
        let certificate =
            issue::server_certificate(&authority, SERVER_LIFETIME).map_err(RunError::Authority)?;
        let certificates = Arc::new(CertSource::for_server(&certificate));
        let tls = tls::control_server_config_with(certificates.clone()).map_err(RunError::Tls)?;

        let mut registry = Registry::new();
        let metrics = Metrics::register(&mut registry);
        let registry = Arc::new(registry);
        let ready = Ready::new();
        let serving = ready.condition("serving", "the controller to listen");
        let hub = Hub::new(state_dir.captures()?, metrics);
        hub.apply(first);
        hub.loaded();
        let (workloads, services) = hub.counts();

        let admin = (Server::unix(&config.admin_socket)?, Server::tcp(config.metrics_listen)?);
        let routes = (
            admin::admin_routes(hub.clone(), config.trust_domain.clone(), &ready, registry.clone()),
            admin::metrics_routes(&ready, registry),
        );
        let listen = |source| RunError::Listen { addr: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let (batches, stop_watching) = source.follow()?;
        let issuer = Issuer::new(authority.clone(), config.cert_lifetime);
        let control = ControlService::new(hub.clone(), tokens, issuer, shutdown.clone());
        serving.met();
        tracing::info!(
            dir = %config.dir.display(),
            listen = %listener.local_addr().unwrap_or(config.listen),
            trust_domain = %config.trust_domain,
            root = %config.state_dir.join("root.pem").display(),
            workloads,
            services,
            "ready"
        );
        let renewal = (authority, certificates, certificate.not_after());
        Ok(Self {
            shutdown,
            ready,
            listener,
            tls,
            control,
            admin,
            routes,
            batches,
            stop_watching,
            hub,
            state_dir,
            renewal,
        })
    }

    /// Where agents are served (the port that was chosen for port 0).
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where metrics are served.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.admin.1.local_addr()
    }

    /// The conditions of `/readyz`.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Serves until shutdown.
    pub async fn run(self) -> Result<(), RunError> {
        let Self { shutdown, hub, mut batches, stop_watching, .. } = self;
        let (authority, certificates, not_after) = self.renewal;
        tokio::spawn(issue::renew(authority, SERVER_LIFETIME, certificates, not_after, shutdown.clone()));
        tokio::spawn(state::keep_captures(self.state_dir, hub.clone(), shutdown.clone()));
        for (server, routes) in [(self.admin.0, self.routes.0), (self.admin.1, self.routes.1)] {
            let (stop, hold) = (shutdown.clone(), shutdown.hold());
            tokio::spawn(async move {
                if let Err(error) = server.serve(routes, stop).await {
                    tracing::error!(%error, "an admin listener failed");
                }
                drop(hold);
            });
        }
        tokio::spawn(async move {
            while let Some(batch) = batches.recv().await {
                hub.apply(batch);
            }
        });
        let stop = shutdown.clone();
        let serving =
            tokio::spawn(mesh_xds::server::serve(self.listener, self.tls, self.control, async move {
                stop.wait().await;
            }));
        let served = tokio::select! {
            served = serving => served,
            // Streams end by themselves at shutdown; an agent that does not read must not hold us up.
            () = async { shutdown.wait().await; tokio::time::sleep(STOP).await } => Ok(Ok(())),
        };
        shutdown.trigger();
        drop(stop_watching);
        if let Err(error) = shutdown.drained(STOP).await {
            tracing::warn!(%error, "stopping all the same");
        }
        served.unwrap_or(Ok(())).map_err(RunError::Serve)
    }
}

fn open_authority(config: &Config) -> Result<BuiltinAuthority, RunError> {
    match (&config.ca_cert, &config.ca_key) {
        (Some(cert), Some(key)) => {
            BuiltinAuthority::from_files(cert, key, &config.trust_domain).map_err(RunError::GivenAuthority)
        }
        _ => BuiltinAuthority::open_or_create(&config.state_dir, &config.trust_domain)
            .map_err(RunError::Authority),
    }
}
