//! The command line. Every verb's help says what it shows and gives examples.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use mesh_telemetry::api::AGENT_SOCKET;

#[cfg(test)]
mod tests;

/// The flags and the verb.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version,
    about = "Look into the Weft mesh from one of its nodes",
    after_help = "meshctl asks the agent of the node it runs on, over the agent's admin socket, so it needs to run as \
        root on that node. `meshctl status` also understands a controller's socket.\n\n\
        Exit codes: 0 yes, 1 no or failed, 2 usage, 3 unreachable.\n\n\
        Use \"meshctl COMMAND --help\" for more about a command.",
    disable_help_subcommand = true,
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands"
)]
pub(crate) struct Args {
    /// Flags of every verb.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Group)]
pub(crate) struct Global {
    /// Admin socket to ask
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = AGENT_SOCKET,
        env = "WEFT_SOCKET",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) socket: PathBuf,

    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Output::Table,
        help_heading = "Global options"
    )]
    pub(crate) output: Output,

    /// Kubeconfig of the cluster, for what is asked of Kubernetes (also: KUBECONFIG)
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig to use; its current one otherwise
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) context: Option<String>,

    /// No colours, even on a terminal (also: NO_COLOR)
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,

    /// How long to wait for an answer, in seconds
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = "Global options"
    )]
    pub(crate) timeout: Duration,
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // Not doc comments: help on single values would stretch every verb's help over a screen.
    // For people.
    Table,
    // For scripts: keys keep their names.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check whether this node, and the cluster, can carry the mesh
    #[command(
        after_help = "The node is checked where an agent answers or mesh-agent is installed; the cluster where there is \
        a kubeconfig.\n\nExamples:\n  \
        # What is in the way on this node?\n  meshctl check\n\n  \
        # What is in the way in the cluster?\n  meshctl check --context staging\n\n  \
        # Fail a script where something is\n  meshctl check >/dev/null || exit 1\n\n  \
        # Before there is an agent, for another cgroup hierarchy\n  meshctl check -- --cgroup /sys/fs/cgroup/lab\n\n\
        Exits 0 when no check fails, 1 when one does. A warning is not a failure."
    )]
    Check(CheckArgs),
    /// Show how the agent (or a controller) is doing
    #[command(after_help = "Examples:\n  \
        # The agent of this node\n  meshctl status\n\n  \
        # A controller\n  meshctl --socket /run/weft/controller.sock status\n\n  \
        # Is it connected to its controller?\n  meshctl status -o json | jq .controller.connected")]
    Status,
    /// List the pods of this node and what the mesh does with them
    #[command(
        visible_alias = "pod",
        after_help = "Examples:\n  \
        # Every pod of the node\n  meshctl pods\n\n  \
        # Those of one namespace\n  meshctl pods -n shop\n\n  \
        # Which are not captured, and why?\n  \
        meshctl pods -o json | jq '.[] | select(.state != \"captured\") | {name, state, reason}'\n\n\
        States: captured (in the mesh), pending (to be captured; its connections are refused), excluded (no label), \
        unknown (nobody has said what it is; its connections are refused)."
    )]
    Pods(Scope),
    /// List the connections that the agent carries now
    #[command(
        visible_aliases = ["connection", "conns"],
        after_help = "Examples:\n  \
        # All of them\n  meshctl connections\n\n  \
        # Those with an end in one namespace, the busiest first\n  meshctl connections -n shop --sort bytes\n\n  \
        # Anything in plain text?\n  meshctl connections -o json | jq '.[] | select(.security == \"plaintext\")'\n\n\
        Paths: tunnel (mutual TLS between two agents), direct (kernel to kernel on this node), plaintext (a pod of \
        the mesh without TLS), passthrough (what is outside the mesh). SENT is from source to destination."
    )]
    Connections(ConnectionArgs),
    /// List the certificates that the agent holds
    #[command(
        visible_alias = "cert",
        after_help = "Examples:\n  \
        # When does each run out?\n  meshctl certs\n\n  \
        # Which renewals fail?\n  meshctl certs -o json | jq '.[] | select(.last_error != null)'\n\n  \
        # Does this node trust the new root already?\n  meshctl certs --roots\n\n\
        NEXT is when a certificate is renewed, or asked for again after a failure. The roots that the node trusts follow; \
        the first of them signs now."
    )]
    Certs(CertArgs),
    /// List every workload that the agent knows, on all nodes
    #[command(
        visible_alias = "workload",
        after_help = "Examples:\n  \
        # Who is in the mesh, and how is it reached?\n  meshctl workloads\n\n  \
        # Whose address is that?\n  \
        meshctl workloads -o json | jq '.[] | select(.addresses | index(\"10.0.1.7\"))'\n\n\
        Tunnels: none (never reported captured: plain text), hbone (HBONE only), withdrawn (was captured, is no \
        more), foreign (another mesh's agent serves HBONE)."
    )]
    Workloads(Scope),
    /// List every service that the agent knows, with its endpoints
    #[command(
        visible_aliases = ["service", "svc"],
        after_help = "Examples:\n  \
        # Services and how many endpoints are ready\n  meshctl services\n\n  \
        # The endpoints of one\n  meshctl services -n shop -o json | jq '.[] | select(.name == \"web\").endpoints'"
    )]
    Services(Scope),
    /// Take a namespace or a pod into the mesh, or out of it
    #[command(
        subcommand_value_name = "COMMAND",
        after_help = "Examples:\n  \
        # The same as: kubectl label namespace shop weft.dev/capture=enabled\n  meshctl capture enable shop\n\n  \
        # One pod alone\n  meshctl capture disable shop/web-0\n\n\
        Capture begins with the next connection; nothing is restarted. enable looks for NetworkPolicies that would cut \
        the tunnels first, and changes nothing where there is one (--force does it all the same)."
    )]
    Capture(CaptureArgs),
    /// Ask an agent or a controller, over TCP, whether it is ready
    #[command(after_help = "Examples:\n  \
        # From any pod: is a controller there, and has it what it needs?\n  \
        meshctl ready weft-controller.weft-system.svc:15021\n\n  \
        # Wait for it, two minutes at most\n  \
        meshctl ready --timeout 120 weft-controller.weft-system.svc:15021")]
    Ready(ReadyArgs),
    /// Print the versions of meshctl and of the agent
    #[command(after_help = "Examples:\n  \
        meshctl version\n\n  \
        # Without asking the agent\n  meshctl version --client")]
    Version(VersionArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  \
        # Bash, for this session\n  source <(meshctl completion bash)\n\n  \
        # Zsh, for good\n  meshctl completion zsh > \"${fpath[1]}/_meshctl\"\n\n  \
        # Fish, for good\n  meshctl completion fish > ~/.config/fish/completions/meshctl.fish")]
    Completion(CompletionArgs),
}

/// What `certs` is about.
#[derive(Debug, Group)]
pub(crate) struct CertArgs {
    /// Of which namespace.
    #[command(flatten)]
    pub(crate) scope: Scope,

    /// The roots that the node trusts, alone
    #[arg(long)]
    pub(crate) roots: bool,
}

/// Which namespaces.
#[derive(Debug, Default, Group)]
pub(crate) struct Scope {
    /// Only what is in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// What is in every namespace, which is the default; wins over --namespace
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

/// Flags of `check`.
#[derive(Debug, Group)]
pub(crate) struct CheckArgs {
    /// Flags for `mesh-agent check`, which is run where no agent answers
    #[arg(last = true, value_name = "AGENT_FLAGS")]
    pub(crate) agent_flags: Vec<String>,
}

/// Flags of `connections`.
#[derive(Debug, Group)]
pub(crate) struct ConnectionArgs {
    /// Which namespaces: a connection is shown where either end is in one.
    #[command(flatten)]
    pub(crate) scope: Scope,
    /// Order of the rows
    #[arg(long, visible_alias = "sort-by", value_name = "KEY", value_enum, default_value_t = ConnectionSort::Id)]
    pub(crate) sort: ConnectionSort,
}

/// Order of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConnectionSort {
    /// As they were opened
    Id,
    /// The busiest first, both directions together
    Bytes,
    /// By who dialled
    Source,
    /// By who was dialled
    Destination,
    /// By path: tunnel, direct, plaintext, passthrough
    Path,
}

/// `capture`'s own verbs.
#[derive(Debug, Group)]
pub(crate) struct CaptureArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: CaptureVerb,
}

/// Into the mesh, or out of it.
#[derive(Debug, Subcommand)]
pub(crate) enum CaptureVerb {
    /// Label a namespace or a pod weft.dev/capture=enabled
    Enable {
        /// NAMESPACE, or NAMESPACE/POD
        #[arg(value_name = "NAMESPACE[/POD]")]
        target: Target,
        /// Even if a NetworkPolicy will cut its tunnels
        #[arg(long)]
        force: bool,
    },
    /// Take the label off a namespace, or label a pod weft.dev/capture=disabled
    Disable {
        /// NAMESPACE, or NAMESPACE/POD
        #[arg(value_name = "NAMESPACE[/POD]")]
        target: Target,
    },
}

/// A namespace, or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Which namespace.
    pub(crate) namespace: String,
    /// Which of its pods; `None`: all.
    pub(crate) pod: Option<String>,
}

impl std::str::FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, pod) = match text.split_once('/') {
            Some((namespace, pod)) => (namespace, Some(pod)),
            None => (text, None),
        };
        if namespace.is_empty() || pod.is_some_and(|pod| pod.is_empty() || pod.contains('/')) {
            return Err("write NAMESPACE, or NAMESPACE/POD");
        }
        Ok(Self { namespace: namespace.into(), pod: pod.map(str::to_owned) })
    }
}

/// Arguments of `ready`.
#[derive(Debug, Group)]
pub(crate) struct ReadyArgs {
    /// Where readiness is served
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
}

/// Flags of `version`.
#[derive(Debug, Group)]
pub(crate) struct VersionArgs {
    /// Only meshctl's own; no agent is asked
    #[arg(long)]
    pub(crate) client: bool,
}

/// Flags of `completion`.
#[derive(Debug, Group)]
pub(crate) struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

impl Scope {
    /// The one namespace that is asked for.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| !self.all_namespaces)
    }

    /// Whether something of this namespace is asked for.
    pub(crate) fn covers(&self, namespace: Option<&str>) -> bool {
        self.namespace().is_none_or(|wanted| namespace == Some(wanted))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "not a number of seconds")?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("more than 0 and at most 86400 seconds".into())
    }
}
