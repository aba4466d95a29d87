//! Arguments of `config`.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand};

/// `config`'s own verbs.
#[derive(Debug, Group)]
#[command(
    subcommand_value_name = "COMMAND",
    after_help = "Examples:\n  \
        # Which settings are in force, and where does each come from?\n  meshctl config dump\n\n  \
        # Everything that the agent holds, to compare with later\n  meshctl config dump -o json >before.json\n\n  \
        # What has changed since?\n  meshctl config diff before.json\n\n  \
        # Does the agent hold what the controller tells?\n  \
        meshctl config diff --controller-socket /run/weft/controller.sock"
)]
pub(crate) struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

/// What to do with what an agent holds.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show everything that the agent holds: settings and their origins, workloads, Services, policies
    #[command(
        after_help = "The table shows the settings and counts the rest; -o json and -o yaml have all of it. No key and no token \
        is ever in it.\n\nExamples:\n  \
        meshctl config dump\n\n  \
        # Which settings are not the defaults?\n  \
        meshctl config dump -o json | jq '.settings[] | select(.from != \"default\")'"
    )]
    Dump,
    /// Say what differs between two dumps, or between the agent and its controller
    #[command(after_help = "Examples:\n  \
        # Since a dump that was written down\n  meshctl config diff before.json\n\n  \
        # Two files, without asking anybody\n  meshctl config diff before.json after.json\n\n  \
        # Against the controller's world\n  meshctl config diff --controller-socket /run/weft/controller.sock\n\n  \
        # Two nodes\n  meshctl --node a config dump -o json | meshctl --node b config diff -\n\n\
        - means what is in FILE alone (or at the controller), + what is in the other alone, ~ what differs. Exits 0 if nothing \
        does, 1 if something does.")]
    Diff(DiffArgs),
}

/// What is compared.
#[derive(Debug, Group)]
pub(crate) struct DiffArgs {
    /// What `config dump -o json` wrote; - for standard input
    #[arg(value_name = "FILE", required_unless_present = "controller_socket")]
    pub(crate) file: Option<PathBuf>,
    /// A second one, instead of the agent that is asked
    #[arg(value_name = "OTHER", conflicts_with = "controller_socket")]
    pub(crate) other: Option<PathBuf>,
    /// Compare with what the controller at this socket tells
    #[arg(long, value_name = "SOCKET", conflicts_with = "file")]
    pub(crate) controller_socket: Option<PathBuf>,
}
