//! Arguments of `logs`.

use std::time::Duration;

use clap::Args as Group;

use super::Scope;
use super::span::span;

/// Which refusals.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # Why was that refused?\n  meshctl logs --since 5m\n\n  \
    # As they come, on all nodes\n  meshctl logs -f --all-nodes\n\n  \
    # Only what policies refuse, in one namespace\n  \
    meshctl logs -f -n shop --reason policy_denied,policy_not_allowed\n\n  \
    # The rule that refused the last one\n  meshctl policy show $(meshctl logs --tail 1 -o json | jq -r '.[0].policy')\n\n  \
    # What a reason means, and what to do\n  meshctl explain-error policy_not_allowed\n\n\
    An agent keeps its last 4096 refusals in memory; what the kernel refuses before it knows the ends (not_ready, \
    unknown_pod, …) is only counted: meshctl status. -o json with -f writes one object a line. Every connection's line is in the access \
    log (MeshConfig spec.accessLog).")]
pub(crate) struct LogArgs {
    /// Go on as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what is not older: 90s, 10m, 1h
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) since: Option<Duration>,
    /// Only these reasons
    #[arg(long, value_name = "CODE,…", value_delimiter = ',')]
    pub(crate) reason: Vec<String>,
    /// Only the last so many to begin with
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Which namespaces: a refusal is shown where either end is in one.
    #[command(flatten)]
    pub(crate) scope: Scope,
}
