//! Arguments of `endpoints`.

use clap::Args as Group;

use super::Scope;

/// Which Service, and which of its endpoints.
#[derive(Debug, Group)]
#[command(after_help = "Examples:\n  \
    # Where do connections of this node's pods to a Service go?\n  meshctl endpoints shop/web\n\n  \
    # All Services of a namespace, and why an endpoint is left out\n  meshctl endpoints -n shop\n\n  \
    # Only those that may be chosen, in a script\n  \
    meshctl endpoints shop/web --chosen -o json | jq -r '.[].address'\n\n\
    CHOSEN is what this node's agent and its kernel tables go by: ready endpoints, then hints for the node's zone, then \
    internalTrafficPolicy. HEALTH: ready, terminating (still serves), or none. TUNNEL: hbone (mutual TLS), none (plain \
    text). Exits 1 where a Service that is named has no endpoint that may be chosen.")]
pub(crate) struct EndpointArgs {
    /// NAMESPACE/NAME of a Service, or its name alone with -n; all Services otherwise
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Only endpoints that may be chosen
    #[arg(long)]
    pub(crate) chosen: bool,
    /// Of which namespaces.
    #[command(flatten)]
    pub(crate) scope: Scope,
}
