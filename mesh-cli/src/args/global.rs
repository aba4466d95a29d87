//! Flags of every verb: whom to ask, how to write the answer, how long to wait.
//!
//! ```text
//! --socket (the default)      a unix socket on this machine
//! --address                   TCP with mutual TLS
//! --node, --pod, --all-nodes, --controller    through the cluster's API server, to the admin port on a pod's loopback
//! ```
//!
//! One of them at most; what one needs of the others is checked here and not by clap, as global flags may stand on both sides of a verb.
//! WEFT_ADDRESS and WEFT_SOCKET are read here as well, and count only where there is no flag: clap does not say which of both it took.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, ValueEnum};
use mesh_telemetry::api::{ADMIN_PORT, AGENT_SOCKET};

const HEADING: &str = "Global options";
const WHOM: &str = "Whom to ask";
const SOCKET_VARIABLE: &str = "WEFT_SOCKET";
const ADDRESS_VARIABLE: &str = "WEFT_ADDRESS";

/// Flags of every verb.
#[derive(Clone, Debug, Group)]
pub(crate) struct Global {
    /// Admin socket to ask.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        help = format!("Admin socket to ask [env: {SOCKET_VARIABLE}] [default: {AGENT_SOCKET}]"),
        help_heading = WHOM
    )]
    pub(crate) socket: Option<PathBuf>,

    /// TCP with mutual TLS.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        help = format!("Ask over TCP with mutual TLS (needs --cert, --key and --ca) [env: {ADDRESS_VARIABLE}]"),
        help_heading = WHOM
    )]
    pub(crate) address: Option<String>,

    /// Certificate to show to --address (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_CERT", hide_env_values = true, help_heading = WHOM)]
    pub(crate) cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_KEY", hide_env_values = true, help_heading = WHOM)]
    pub(crate) key: Option<PathBuf>,

    /// Certificates that the end at --address must lead to (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "WEFT_CA", hide_env_values = true, help_heading = WHOM)]
    pub(crate) ca: Option<PathBuf>,

    /// Name that its certificate must have, where it is not the host of --address
    #[arg(long, global = true, value_name = "NAME", help_heading = WHOM)]
    pub(crate) server_name: Option<String>,

    /// Ask the agent of a node, through the cluster
    #[arg(long, global = true, value_name = "NODE", help_heading = WHOM)]
    pub(crate) node: Option<String>,

    /// Ask the agents of all nodes, through the cluster
    #[arg(long, global = true, help_heading = WHOM)]
    pub(crate) all_nodes: bool,

    /// Ask a controller, through the cluster
    #[arg(long, global = true, help_heading = WHOM)]
    pub(crate) controller: bool,

    /// Ask what runs in a pod (an agent, a controller), through the cluster
    #[arg(long, global = true, value_name = "NAMESPACE/POD", help_heading = WHOM)]
    pub(crate) pod: Option<String>,

    /// Namespace of Weft's own pods
    #[arg(
        long,
        global = true,
        value_name = "NAMESPACE",
        default_value = "weft-system",
        env = "WEFT_NAMESPACE",
        hide_env_values = true,
        help_heading = WHOM
    )]
    pub(crate) weft_namespace: String,

    /// Port on the pods' own loopback that answers meshctl
    #[arg(
        long,
        global = true,
        value_name = "PORT",
        default_value_t = ADMIN_PORT,
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = WHOM
    )]
    pub(crate) admin_port: u16,

    /// Kubeconfig of the cluster, for what is asked of Kubernetes (also: KUBECONFIG)
    #[arg(long, global = true, value_name = "FILE", help_heading = WHOM)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig to use; its current one otherwise
    #[arg(long, global = true, value_name = "NAME", help_heading = WHOM)]
    pub(crate) context: Option<String>,

    /// Output format
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Output::Table,
        help_heading = HEADING
    )]
    pub(crate) output: Output,

    /// Tables without their first line
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) no_headers: bool,

    /// No colours, even on a terminal (also: NO_COLOR)
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) no_color: bool,

    /// How long to wait for an answer, in seconds
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = HEADING
    )]
    pub(crate) timeout: Duration,
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    // Not doc comments: help on single values would stretch every verb's help over a screen.
    // For people.
    Table,
    // The same with more columns.
    Wide,
    // For scripts: keys keep their names.
    Json,
    // The same as YAML.
    Yaml,
    // One name a line, as `kubectl -o name` writes them: pod/shop/web-0.
    Name,
}

/// Whom the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A unix socket.
    Socket(PathBuf),
    /// TCP with mutual TLS.
    Address(Remote),
    /// The agent of a node.
    Node(String),
    /// The agents of all nodes.
    AllNodes,
    /// A controller.
    Controller,
    /// A pod, by namespace and name.
    Pod(String, String),
}

/// What mutual TLS takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Where.
    pub(crate) address: String,
    /// Who its certificate must be for.
    pub(crate) server_name: String,
    /// What is shown.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// What the other's must lead to.
    pub(crate) ca: PathBuf,
}

impl Global {
    /// Whom to ask; else what is wrong with the flags.
    pub(crate) fn end(&self) -> Result<End, String> {
        self.end_with(|variable| std::env::var_os(variable))
    }

    /// The same, with an environment of its own.
    pub(super) fn end_with(&self, variable: impl Fn(&str) -> Option<OsString>) -> Result<End, String> {
        let named = [
            ("--socket", self.socket.is_some()),
            ("--address", self.address.is_some()),
            ("--node", self.node.is_some()),
            ("--all-nodes", self.all_nodes),
            ("--controller", self.controller),
            ("--pod", self.pod.is_some()),
        ];
        let named: Vec<&str> = named.iter().filter(|(_, named)| *named).map(|(flag, _)| *flag).collect();
        if let [first, second, ..] = named[..] {
            return Err(format!("{first} and {second} cannot be used together: name one to be asked"));
        }
        if let Some(socket) = &self.socket {
            return Ok(End::Socket(socket.clone()));
        }
        if let Some(address) = &self.address {
            return self.remote("--address", address).map(End::Address);
        }
        if let Some(node) = &self.node {
            return Ok(End::Node(node.clone()));
        }
        if let Some(pod) = &self.pod {
            return match pod.split_once('/') {
                Some((namespace, name))
                    if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
                {
                    Ok(End::Pod(namespace.into(), name.into()))
                }
                _ => Err(format!("--pod {pod}: write NAMESPACE/POD")),
            };
        }
        if self.all_nodes {
            return Ok(End::AllNodes);
        }
        if self.controller {
            return Ok(End::Controller);
        }
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(address) = variable(ADDRESS_VARIABLE) {
            return self.remote(ADDRESS_VARIABLE, &address.to_string_lossy()).map(End::Address);
        }
        Ok(End::Socket(variable(SOCKET_VARIABLE).map_or_else(|| AGENT_SOCKET.into(), PathBuf::from)))
    }

    /// Somebody says whom to ask: not the agent of this machine, that is asked otherwise.
    pub(crate) fn names_an_end(&self) -> bool {
        self.end().is_ok_and(|end| end != End::Socket(AGENT_SOCKET.into()))
    }

    /// `named` is what names the address.
    fn remote(&self, named: &str, address: &str) -> Result<Remote, String> {
        let host = match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => host,
            _ => return Err(format!("{named} {address}: write HOST:PORT")),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let file = |flag: &str, file: &Option<PathBuf>| {
            file.clone().ok_or_else(|| format!("{named} needs {flag} as well: who asks shows a certificate"))
        };
        Ok(Remote {
            address: address.into(),
            server_name: self.server_name.clone().unwrap_or_else(|| host.into()),
            cert: file("--cert", &self.cert)?,
            key: file("--key", &self.key)?,
            ca: file("--ca", &self.ca)?,
        })
    }
}

impl Output {
    /// A table or a list of fields, and not a value for scripts.
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "not a number of seconds")?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("more than 0 and at most 86400 seconds".into())
    }
}
