//! Why the cluster has no answer, and what is missing.

use std::time::Duration;

/// Why the cluster has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Nothing says where the cluster is, or what does is wrong.
    #[error("no cluster: name a kubeconfig with --kubeconfig or KUBECONFIG")]
    NoConfig(#[source] kube::config::KubeconfigError),
    /// The kubeconfig has no such context.
    #[error("the kubeconfig has no context {name}{near}")]
    NoContext {
        /// What was asked for.
        name: String,
        /// Those that it has, near ones first.
        near: String,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Unusable(#[source] Box<kube::Error>),
    /// No answer.
    #[error("the API server {server} does not answer within {} s (--timeout waits longer; --context names another)", .after.as_secs_f32())]
    Timeout {
        /// Where it should be.
        server: String,
        /// How long it was waited.
        after: Duration,
    },
    /// 401.
    #[error(
        "cannot {what}: {server} does not know this user: {message}: have the kubeconfig's credentials expired, or is it another cluster? \
        (--context)"
    )]
    Stranger {
        /// What was tried.
        what: String,
        /// Who was asked.
        server: String,
        /// What it says.
        message: String,
    },
    /// 403.
    #[error("cannot {what}: {message}: a Role must give this user {needs}")]
    Forbidden {
        /// What was tried.
        what: String,
        /// What it says.
        message: String,
        /// Verbs and resource.
        needs: String,
    },
    /// The API server says no for another reason.
    #[error("cannot {what}: {message}")]
    Denied {
        /// What was tried.
        what: String,
        /// What it says.
        message: String,
        /// 404: no such object.
        missing: bool,
    },
    /// The API server cannot be reached.
    #[error("cannot {what}: {server} cannot be reached: is it the right cluster? (--context, --kubeconfig)")]
    Api {
        /// What was tried.
        what: String,
        /// Where it should be.
        server: String,
        /// What came instead of an answer.
        source: Box<kube::Error>,
    },
    /// Nobody to speak to.
    #[error("{0}")]
    NoPod(String),
    /// Whom somebody wants to speak to has a pod, and nobody is in it.
    #[error("{whom} is not running ({phase}): kubectl -n {namespace} describe pod {pod} says why")]
    NotRunning {
        /// Who was asked.
        whom: String,
        /// How its pod is.
        phase: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
    },
    /// The cluster's way into a pod ends before the port.
    #[error("{end}: {message}: does its pod listen there? (agent.adminPort of the chart; --admin-port)")]
    Forward {
        /// Who was asked.
        end: String,
        /// What the node says.
        message: String,
    },
}

impl ClusterError {
    /// Nobody there, in contrast to somebody who says no.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::NoConfig(_)
            | Self::Timeout { .. }
            | Self::Api { .. }
            | Self::NotRunning { .. }
            | Self::Forward { .. } => true,
            Self::NoContext { .. }
            | Self::Stranger { .. }
            | Self::Forbidden { .. }
            | Self::Denied { .. }
            | Self::NoPod(_)
            | Self::Unusable(_) => false,
        }
    }

    /// What an error of kube's says of an attempt. `needs` is what a Role must give for it.
    pub(super) fn of(what: String, needs: String, server: &str, error: kube::Error) -> Self {
        let server = server.to_owned();
        match error {
            kube::Error::Api(status) => {
                let message = status.message.clone();
                match status.code {
                    401 => Self::Stranger { what, server, message },
                    403 => Self::Forbidden { what, message, needs },
                    code => Self::Denied { what, message, missing: code == 404 },
                }
            }
            error => Self::Api { what, server, source: Box::new(error) },
        }
    }
}
