//! Flags, and where the node's cgroups are (`cgroups`): each stage gets its own part from `main`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_telemetry::logs::Format;

mod cgroups;

pub use cgroups::{holds as holds_process, mount as cgroup2_mount, own_cgroup, search as cgroup_of};

/// The node half of the Weft service mesh: captures the node's pods and gives their connections mutual TLS.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do; without a command the agent runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where things are on this node.
    #[command(flatten)]
    pub node: NodePaths,
    /// How to run.
    #[command(flatten)]
    pub run: RunFlags,
}

const AFTER_HELP: &str = "Exit codes: 0 stopped by a signal (or the check passed), 1 failed, 2 usage.\n\
Hooks stay attached when the agent stops: captured pods are refused until an agent is back.\n\
`mesh-agent reset` takes them off.";

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say whether this node can carry the mesh.
    Check {
        /// As JSON, in the shape of `meshctl check -o json`.
        #[arg(long)]
        json: bool,
    },
    /// Detach every hook and remove every pin: pods connect as they did before Weft. Stop the agent first.
    Reset,
}

/// Where things are on this node.
#[derive(Debug, Args)]
pub struct NodePaths {
    /// The cgroup2 directory at which the hooks are attached, and below which kubelet's cgroups are. Default: the mount
    /// of cgroup2.
    #[arg(long, global = true, env = "WEFT_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// The directory on a bpffs that holds weft/.
    #[arg(long, global = true, env = "WEFT_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// How to run.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// This node's name, as its Node object has it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: Option<String>,
    /// The controller.
    #[arg(
        long,
        env = "WEFT_CONTROLLER",
        value_name = "HOST:PORT",
        default_value = "weft-controller.weft-system.svc:15010"
    )]
    pub controller: String,
    /// File with the token that the controller knows this node by; read anew for each call.
    #[arg(long, env = "WEFT_TOKEN_FILE", value_name = "FILE", default_value = "/var/run/secrets/weft/token")]
    pub token_file: PathBuf,
    /// File with the root certificates of the mesh (PEM).
    #[arg(long, env = "WEFT_ROOT_CERT", value_name = "FILE", default_value = "/etc/weft/root.pem")]
    pub root_cert: PathBuf,
    /// Where keys and certificates outlive the process; memory-backed.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR", default_value = "/run/weft")]
    pub state_dir: PathBuf,
    /// Where the last known world outlives the process, for a start without the controller; on disk.
    #[arg(long, env = "WEFT_CACHE_DIR", value_name = "DIR", default_value = "/var/lib/weft")]
    pub cache_dir: PathBuf,
    /// The host's network namespace.
    #[arg(long, env = "WEFT_HOST_NETNS", value_name = "FILE", default_value = "/proc/1/ns/net")]
    pub host_netns: PathBuf,
    /// Kubelet's directory of pod logs.
    #[arg(long, env = "WEFT_POD_LOGS", value_name = "DIR", default_value = "/var/log/pods")]
    pub pod_logs: PathBuf,
    /// The unix socket that meshctl speaks to.
    #[arg(long, env = "WEFT_SOCKET", value_name = "PATH", default_value = "/run/weft/agent.sock")]
    pub admin_socket: PathBuf,
    /// The admin routes over TCP, and on the loopback.
    #[command(flatten)]
    pub remote: RemoteFlags,
    /// Where readiness is served.
    #[arg(long, env = "WEFT_READY_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:15021")]
    pub ready_listen: SocketAddr,
    /// Where metrics are served.
    #[arg(long, env = "WEFT_METRICS_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:15020")]
    pub metrics_listen: SocketAddr,
    /// What a pod may do that nobody has classified.
    #[arg(long, env = "WEFT_UNKNOWN_PODS", value_enum, default_value_t = UnknownPods::Refuse)]
    pub unknown_pods: UnknownPods,
    /// What becomes of a labelled pod's connections into the mesh from before it was captured.
    #[arg(long, env = "WEFT_PRE_CAPTURE_SOCKETS", value_enum, default_value_t = PreCaptureSockets::Reset)]
    pub pre_capture_sockets: PreCaptureSockets,
    /// Namespaces whose pods are outside the mesh before the controller has spoken.
    #[arg(
        long,
        env = "WEFT_BOOTSTRAP_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE,…",
        default_value = "kube-system,weft-system"
    )]
    pub bootstrap_namespaces: Vec<String>,
    /// The port on which kubelet listens in the host's network namespace: who does is kubelet, and its probes pass.
    #[arg(long, env = "WEFT_KUBELET_PORT", value_name = "PORT", default_value_t = 10250, value_parser = clap::value_parser!(u16).range(1..))]
    pub kubelet_port: u16,
    /// How long, in microseconds, the agent stays awake behind a message of a lone conversation, where it has one core and
    /// staying awake pays; 0: never.
    #[arg(long, env = "WEFT_SPIN_US", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub spin_us: u16,
    /// How log lines are written.
    #[arg(long, env = "WEFT_LOG_FORMAT", default_value = "text")]
    pub log_format: Format,
}

/// Where else than on its socket the agent answers meshctl: nowhere, unless it is told.
#[derive(Clone, Debug, Default, Args)]
pub struct RemoteFlags {
    /// Answer meshctl over TCP with mutual TLS as well.
    #[arg(
        long,
        env = "WEFT_ADMIN_LISTEN",
        value_name = "ADDR:PORT",
        requires = "admin_cert",
        requires = "admin_key",
        requires = "admin_client_ca"
    )]
    pub admin_listen: Option<SocketAddr>,
    /// The certificate for it (PEM), then its issuers.
    #[arg(long, env = "WEFT_ADMIN_CERT", value_name = "FILE")]
    pub admin_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "WEFT_ADMIN_KEY", value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// Who administers: certificates that lead to one of these (PEM), and are no workload's.
    #[arg(long, env = "WEFT_ADMIN_CLIENT_CA", value_name = "FILE")]
    pub admin_client_ca: Option<PathBuf>,
    /// Answer meshctl on this port of the pod's own loopback, for pods/portforward. 0: not.
    #[arg(long, env = "WEFT_ADMIN_LOOPBACK_PORT", value_name = "PORT", default_value_t = 0)]
    pub admin_loopback_port: u16,
}

/// What an unclassified pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownPods {
    /// Its connects are refused.
    Refuse,
    /// It connects as if there were no mesh.
    Allow,
}

/// What becomes of sockets that a pod opened before its capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreCaptureSockets {
    /// Those of a pod that was labelled when it started, to captured peers, are reset.
    Reset,
    /// They are left alone.
    Keep,
}

impl NodePaths {
    /// The directory of the hooks: as given, or the mount of cgroup2.
    pub fn cgroup_root(&self) -> anyhow::Result<PathBuf> {
        match &self.cgroup {
            Some(directory) => Ok(directory.clone()),
            None => cgroups::mount(),
        }
    }
}
