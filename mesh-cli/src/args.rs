//! The command line. Every verb's help says what it shows and gives examples.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

mod bpf;
mod config;
mod endpoints;
mod explain_error;
mod global;
mod log_level;
mod logs;
mod man;
mod scope;
mod span;
mod support_bundle;
#[cfg(test)]
mod tests;
mod top;

pub(crate) use bpf::{BpfArgs, BpfMapArgs, BpfVerb};
pub(crate) use config::{ConfigArgs, ConfigVerb, DiffArgs};
pub(crate) use endpoints::EndpointArgs;
pub(crate) use explain_error::ExplainErrorArgs;
pub(crate) use global::{End, Global, Output, Remote};
pub(crate) use log_level::LogLevelArgs;
pub(crate) use logs::LogArgs;
pub(crate) use man::ManArgs;
pub(crate) use scope::Scope;
pub(crate) use support_bundle::SupportBundleArgs;
pub(crate) use top::{TalkerSort, TopArgs};

/// The flags and the verb.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version,
    about = "Look into the Weft mesh: from one of its nodes, or from where your kubeconfig is",
    after_help = "Without a flag that says whom to ask, meshctl asks the agent of the node it runs on, over the agent's admin \
        socket, as root. --node, --all-nodes and --controller go through the cluster's API server; --address is TCP with \
        mutual TLS.\n\n\
        Exit codes: 0 yes, 1 no or failed, 2 usage, 3 unreachable, or only a part of the nodes answered.\n\n\
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

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check whether this node, and the cluster, can carry the mesh
    #[command(
        after_help = "The node is checked where an agent answers or mesh-agent is installed; the cluster where there is \
        a kubeconfig.\n\nExamples:\n  \
        # What is in the way on this node?\n  meshctl check\n\n  \
        # What is in the way in the cluster?\n  meshctl check --context staging\n\n  \
        # On any of its nodes, once Weft is installed?\n  meshctl check --all-nodes\n\n  \
        # Fail a script where something is\n  meshctl check >/dev/null || exit 1\n\n  \
        # Before there is an agent, for another cgroup hierarchy\n  meshctl check -- --cgroup /sys/fs/cgroup/lab\n\n\
        Exits 0 when no check fails, 1 when one does. A warning is not a failure."
    )]
    Check(CheckArgs),
    /// Show how the agent (or a controller) is doing
    #[command(after_help = "Examples:\n  \
        # The agent of this node\n  meshctl status\n\n  \
        # Another node's, and a controller, through the cluster\n  meshctl status --node worker-1\n  meshctl status --controller\n\n  \
        # A controller on this machine\n  meshctl --socket /run/weft/controller.sock status\n\n  \
        # Is it connected to its controller?\n  meshctl status -o json | jq .controller.connected")]
    Status,
    /// List the pods of this node and what the mesh does with them
    #[command(
        visible_alias = "pod",
        after_help = "Examples:\n  \
        # Every pod of the node\n  meshctl pods\n\n  \
        # Those of one namespace\n  meshctl pods -n shop\n\n  \
        # Of all nodes, those with a label\n  meshctl pods --all-nodes -l app=web\n\n  \
        # Names of those that are not captured\n  meshctl pods --field-selector state!=captured -o name\n\n  \
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
        # Live, of one Service\n  meshctl connections --watch --field-selector dst.service=web\n\n  \
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
    /// Explain what becomes of a connection, step by step
    #[command(
        visible_aliases = ["why", "x"],
        after_help = "SRC is a pod (NAMESPACE/POD), a workload (workload/NAMESPACE/NAME, or deploy/…) or an address; DST also a Service \
        (service/NAMESPACE/NAME, or svc/…), and its port. NAMESPACE/NAME of a pod and a Service is the pod as SRC, and as DST the Service where \
        that has the port, else the pod; pod/NAMESPACE/NAME says which. Nothing is dialled.\n\nExamples:\n  \
        # May the cart talk to the web server, and how?\n  meshctl explain shop/cart-0 shop/web-0:8080\n\n  \
        # By a Service\n  meshctl explain deploy/shop/cart service/shop/web:80\n\n  \
        # From outside the cluster\n  meshctl explain 192.0.2.7 shop/web-0:8080\n\n  \
        # In a script\n  meshctl explain shop/cart-0 shop/web-0:8080 -o json | jq -r .verdict\n\n\
        What the kernel's tables say is known on the source's node (of a source outside the mesh: on the destination's): ask the agent \
        there. Exits 0 where the connection is admitted, 1 where it is not."
    )]
    Explain(ExplainArgs),
    /// Look at who may talk to whom
    #[command(
        visible_aliases = ["policies", "azp"],
        subcommand_value_name = "COMMAND",
        after_help = "Examples:\n  \
        # Every policy, and whether every node has it\n  meshctl policy list\n\n  \
        # What does one say?\n  meshctl policy show shop/web\n\n  \
        # After a change: wait until every node that must know it does\n  meshctl policy wait shop/web --timeout 30\n\n  \
        # Before a change: which connections of the last hour would it cut?\n  \
        meshctl --socket /run/weft/controller.sock policy test -f web.yaml\n\n  \
        # Without Kubernetes: ask the controller\n  meshctl --socket /run/weft/controller.sock policy list\n\n\
        Where a kubeconfig is named (--kubeconfig, --context, KUBECONFIG), the cluster is asked; otherwise the socket. An \
        agent's socket shows what is in force on its node; only a controller knows whether every node has it."
    )]
    Policy(PolicyArgs),
    /// Show where connections to a Service may go, and why not elsewhere
    #[command(visible_aliases = ["endpoint", "ep"])]
    Endpoints(EndpointArgs),
    /// Watch who talks to whom, how fast, and what is refused
    Top(TopArgs),
    /// Follow the connections that are refused or cut, and why
    #[command(visible_alias = "log")]
    Logs(LogArgs),
    /// Say what an error code means and what to do about it
    #[command(visible_alias = "explain-code")]
    ExplainError(ExplainErrorArgs),
    /// Show everything that the agent holds, or what differs between two dumps
    Config(ConfigArgs),
    /// Show or set what an agent or a controller logs, while it runs
    LogLevel(LogLevelArgs),
    /// Look at the agent's maps and programs in the kernel
    Bpf(BpfArgs),
    /// Write a file with all that is needed to look into a problem, without secrets
    #[command(visible_alias = "bug-report")]
    SupportBundle(SupportBundleArgs),
    /// Ask an agent or a controller, over TCP, whether it is ready
    #[command(after_help = "Examples:\n  \
        # From any pod: is a controller there, and has it what it needs?\n  \
        meshctl ready weft-controller.weft-system.svc:15021\n\n  \
        # Wait for it, two minutes at most\n  \
        meshctl ready --timeout 120 weft-controller.weft-system.svc:15021")]
    Ready(ReadyArgs),
    /// Print the versions of meshctl, the controller and the agents
    #[command(after_help = "Examples:\n  \
        meshctl version\n\n  \
        # As each agent says itself\n  meshctl version --all-nodes\n\n  \
        # Without asking the agent\n  meshctl version --client")]
    Version(VersionArgs),
    /// Print or write manual pages
    Man(ManArgs),
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
    /// Show them again every two seconds; on a terminal in place
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How often --watch shows them, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = global::seconds)]
    pub(crate) interval: Duration,
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
    /// By the Service that was dialled
    Service,
    /// Plain text first
    Security,
    /// The most bytes from source to destination first
    Sent,
    /// The most bytes back first
    Received,
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

/// Who dials whom.
#[derive(Debug, Group)]
pub(crate) struct ExplainArgs {
    /// Who dials: NAMESPACE/POD, workload/NAMESPACE/NAME, or an address
    #[arg(value_name = "SRC", value_parser = source)]
    pub(crate) source: String,
    /// Who is dialled: the same or service/NAMESPACE/NAME, and the port
    #[arg(value_name = "DST:PORT", value_parser = destination)]
    pub(crate) destination: String,
}

fn source(text: &str) -> Result<String, mesh_model::explain::NoSuchPlace> {
    text.parse::<mesh_model::explain::Place>().map(|_| text.to_owned())
}

fn destination(text: &str) -> Result<String, mesh_model::explain::NoSuchPlace> {
    mesh_model::explain::Place::with_port(text).map(|_| text.to_owned())
}

/// `policy`'s own verbs.
#[derive(Debug, Group)]
pub(crate) struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: PolicyVerb,
}

/// What to do about policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// List policies, and whether every node has them
    List(Scope),
    /// Show what one policy says and what is to be said of it
    Show(PolicyName),
    /// Wait until every node with a pod that the policy targets has applied it
    #[command(
        after_help = "Waits as long as --timeout says (10 s). Exits 0 once it is enforced as it stands, 1 if it is not in time, \
        and then names the nodes that have not applied it."
    )]
    Wait(PolicyName),
    /// Say which connections of the last hour a file's policies would cut, before they are applied
    #[command(after_help = "Examples:\n  \
        # Before kubectl apply\n  meshctl --socket /run/weft/controller.sock policy test -f web.yaml\n\n  \
        # In Kubernetes, where the controller's socket is in its pod\n  \
        kubectl exec -i -n weft-system deploy/weft-controller -- meshctl --socket /run/weft/controller.sock \
        policy test -f - <web.yaml\n\n  \
        # Against a world that was written down\n  meshctl policy test -f web.yaml --world world.json\n\n\
        Exits 0 if nothing is cut, 1 if something is.")]
    Test(PolicyTest),
    /// Write down what policies are judged by, as JSON, for `policy test --world`
    #[command(after_help = "Example:\n  \
        meshctl --socket /run/weft/controller.sock policy dump >world.json\n\n\
        It holds the names, labels and addresses of all pods, and who talked to whom in the last hour.")]
    Dump,
}

/// What is tried, and on what.
#[derive(Debug, Group)]
pub(crate) struct PolicyTest {
    /// File with AuthorizationPolicies (YAML or JSON); - for standard input
    #[arg(short, long = "filename", visible_alias = "file", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What `policy dump` wrote; the controller at --socket is asked otherwise
    #[arg(long, value_name = "FILE")]
    pub(crate) world: Option<PathBuf>,
}

/// One policy.
#[derive(Debug, Group)]
pub(crate) struct PolicyName {
    /// NAME, or NAMESPACE/NAME
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub(crate) name: String,
    /// Its namespace; not needed where there is only one policy of the name
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
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
