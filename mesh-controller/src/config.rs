//! Flags and environment, read and checked once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mesh_model::TrustDomain;
use mesh_telemetry::logs::Format;

use crate::index::facts::Reading;

#[cfg(test)]
mod tests;

/// The longest lifetime that a workload's certificate may have: certificates are short because there is no revocation.
const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);
/// The shortest: agents renew at half of it.
const SHORTEST: Duration = Duration::from_secs(60);

/// What the controller is started with.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "mesh-controller",
    version,
    about = "Makes a mesh of the objects of a cluster, or of a directory: tells every node's agent and signs certificates.",
    long_about = "Makes a mesh of the objects of a cluster, or of a directory: tells every node's agent and signs \
        certificates.\n\n\
        Without --dir it watches the Kubernetes API; any number of replicas may run. \
        With --dir it reads Kubernetes-shaped YAML and JSON (Namespace, Node, Pod, Service, EndpointSlice, \
        ServiceAccount, List) below it and follows changes; agents verify the controller by STATE_DIR/root.pem, which is \
        to be copied to them. Agents connect to --listen with TLS 1.3 and a token.",
    args_conflicts_with_subcommands = false,
    after_help = "Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failed, 2 wrong flags or configuration.\n\
        Log filter: RUST_LOG, for example RUST_LOG=debug."
)]
pub struct Config {
    /// Something else than to serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Directory of YAML and JSON files, read with all that is below it, and followed. Without it: Kubernetes.
    #[arg(long, value_name = "DIR", env = "WEFT_DIR", requires = "agent_tokens")]
    pub dir: Option<PathBuf>,

    /// The cluster, in Kubernetes; without it KUBECONFIG, else the pod's own service account.
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Weft's own namespace: AuthorizationPolicies there are about the whole mesh.
    #[arg(long, value_name = "NAME", default_value = "weft-system", env = "POD_NAMESPACE", global = true)]
    pub namespace: String,

    /// Tells the controller's replicas apart, in Kubernetes. Default: the host's name.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica: Option<String>,

    /// Service account of the agents, in Kubernetes.
    #[arg(long, value_name = "NAME", default_value = "weft-agent", env = "WEFT_AGENT_SERVICE_ACCOUNT")]
    pub agent_service_account: String,

    /// Audience that an agent's token must be for, in Kubernetes.
    #[arg(long, value_name = "AUDIENCE", default_value = "weft-controller", env = "WEFT_TOKEN_AUDIENCE")]
    pub token_audience: String,

    /// Secret that holds the authority, in Kubernetes.
    #[arg(long, value_name = "NAME", default_value = "weft-ca", env = "WEFT_CA_SECRET")]
    pub ca_secret: String,

    /// ConfigMap with the roots for agents, in Kubernetes.
    #[arg(long, value_name = "NAME", default_value = "weft-roots", env = "WEFT_ROOTS_CONFIG_MAP")]
    pub roots_config_map: String,

    /// Address for /readyz and /healthz (plain HTTP), in Kubernetes.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:15021", env = "WEFT_READY_LISTEN")]
    pub ready_listen: SocketAddr,

    /// Address on which agents are served (TLS).
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:15010", env = "WEFT_LISTEN")]
    pub listen: SocketAddr,

    /// SPIFFE trust domain of all identities.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", env = "WEFT_TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,

    /// Certificate (PEM) of the authority to sign with, then each issuer up to the root. Without it an authority is
    /// made at first start and kept in the state directory.
    #[arg(long, value_name = "FILE", requires = "ca_key", env = "WEFT_CA_CERT")]
    pub ca_cert: Option<PathBuf>,

    /// Private key (PEM, mode 0600) of that authority.
    #[arg(long, value_name = "FILE", requires = "ca_cert", env = "WEFT_CA_KEY")]
    pub ca_key: Option<PathBuf>,

    /// Directory for what must outlive a restart: the authority (ca.key, root.pem) and what agents reported
    /// (captures.json).
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weft", env = "WEFT_STATE_DIR")]
    pub state_dir: PathBuf,

    /// File of lines `NODE TOKEN` (mode 0600; `#` begins a comment line), read anew for each call. In Kubernetes agents
    /// come with the token of their service account, unless this is given.
    #[arg(long, value_name = "FILE", env = "WEFT_AGENT_TOKENS")]
    pub agent_tokens: Option<PathBuf>,

    /// Unix socket (mode 0600) for status.
    #[arg(long, value_name = "PATH", default_value = "/run/weft/controller.sock", env = "WEFT_ADMIN_SOCKET")]
    pub admin_socket: PathBuf,

    /// Answer meshctl over TCP with mutual TLS as well.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "WEFT_ADMIN_LISTEN",
        requires = "admin_cert",
        requires = "admin_key",
        requires = "admin_client_ca"
    )]
    pub admin_listen: Option<SocketAddr>,

    /// The certificate for it (PEM), then its issuers.
    #[arg(long, value_name = "FILE", env = "WEFT_ADMIN_CERT")]
    pub admin_cert: Option<PathBuf>,

    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", env = "WEFT_ADMIN_KEY")]
    pub admin_key: Option<PathBuf>,

    /// Who administers: certificates that lead to one of these (PEM), and are no workload's.
    #[arg(long, value_name = "FILE", env = "WEFT_ADMIN_CLIENT_CA")]
    pub admin_client_ca: Option<PathBuf>,

    /// Answer meshctl on this port of the pod's own loopback, for pods/portforward. 0: not. Not on the host's network, where it is
    /// everybody's.
    #[arg(long, value_name = "PORT", env = "WEFT_ADMIN_LOOPBACK_PORT", default_value_t = 0)]
    pub admin_loopback_port: u16,

    /// Address for /metrics and /readyz (plain HTTP).
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:15020", env = "WEFT_METRICS_LISTEN")]
    pub metrics_listen: SocketAddr,

    /// Lifetime of workloads' certificates: a number with s, m, h or d (1m to 90d).
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lifetime, env = "WEFT_CERT_LIFETIME")]
    pub cert_lifetime: Duration,

    /// How log lines are written: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "WEFT_LOG_FORMAT")]
    pub log_format: Format,
}

/// What else the controller's program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Has the whole mesh let go of its pods, in Kubernetes: marks the MeshConfig as leaving and waits for every node.
    ///
    /// What `helm uninstall` runs first. Prints one line for each node that has not let go in time, and exits with 1 then.
    Uninstall {
        /// So long the nodes have: a number with s, m, h or d.
        #[arg(long, value_name = "TIME", default_value = "120s", value_parser = patience)]
        timeout: Duration,
    },
}

impl Config {
    /// What objects are read against.
    pub fn reading(&self, trust_domain: &TrustDomain) -> Reading {
        Reading { trust_domain: trust_domain.clone(), release_namespace: self.namespace.clone() }
    }

    /// The replica's name.
    pub fn replica(&self) -> String {
        let host = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
            Some(name.trim().to_owned()).filter(|name| !name.is_empty())
        };
        self.replica.clone().or_else(host).unwrap_or_else(|| "controller".into())
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    mesh_crd::duration::parse(text).map_err(|error| error.to_string())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let form = || "a number followed by s, m, h or d, such as 24h".to_owned();
    let unit = text.chars().last().ok_or_else(form)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(form()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| form())?;
    let lifetime = Duration::from_secs(number.checked_mul(seconds).ok_or_else(form)?);
    if !(SHORTEST..=LONGEST).contains(&lifetime) {
        return Err("from 1m to 90d".into());
    }
    Ok(lifetime)
}
