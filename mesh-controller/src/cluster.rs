//! The way to the Kubernetes API: which cluster, as whom, and what its refusals mean in words.
//!
//! ```text
//! --kubeconfig FILE, else KUBECONFIG, else the pod's own service account ──▶ connect ──▶ kube::Client
//! ```
//!
//! Connecting asks nothing of the API server: it may be away, and every use of the client is tried again by whoever uses it.
//! Not here: what is asked (`watch`, `reconcile`, `issue`).

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::config::Config;

#[cfg(test)]
mod tests;

/// An address of the API server that does not answer is given up after this.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no way to the API.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig is no good.
    #[error("cannot use the kubeconfig {}: name another with --kubeconfig", .0.display())]
    File(PathBuf, #[source] KubeconfigError),
    /// Those of the environment are no good.
    #[error("cannot use the files that KUBECONFIG names")]
    Environment(#[source] KubeconfigError),
    /// Not in a pod.
    #[error(
        "this is no pod with a service account, and no kubeconfig is given: use --kubeconfig FILE, or --dir DIR to do without Kubernetes"
    )]
    NotInCluster(#[source] InClusterError),
    /// The client could not be made.
    #[error("cannot make a client of the Kubernetes API")]
    Client(#[source] kube::Error),
}

/// A client of the cluster that the flags name. Needs a tokio runtime.
pub async fn connect(config: &Config) -> Result<Client, ConnectError> {
    let kubeconfig = match &config.kubeconfig {
        Some(path) => {
            let failed = |error| ConnectError::File(path.clone(), error);
            Some((Kubeconfig::read_from(path).map_err(failed)?, Some(path)))
        }
        None => {
            Kubeconfig::from_env().map_err(ConnectError::Environment)?.map(|kubeconfig| (kubeconfig, None))
        }
    };
    let mut cluster = match kubeconfig {
        Some((kubeconfig, path)) => {
            let options = KubeConfigOptions::default();
            let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            made.map_err(|error| match path {
                Some(path) => ConnectError::File(path.clone(), error),
                None => ConnectError::Environment(error),
            })?
        }
        None => kube::Config::incluster().map_err(ConnectError::NotInCluster)?,
    };
    cluster.connect_timeout = Some(CONNECT);
    Client::try_from(cluster).map_err(ConnectError::Client)
}

/// What a refusal of the API server comes to, and what to do about it, on one line. `verb` and `resource` as RBAC writes them
/// (`watch`, `pods`).
pub fn explain(verb: &str, resource: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the controller may not {verb} {resource}: give its service account the verb {verb:?} on {resource:?} (docs/kubernetes.md lists all of them)"
        ),
        kube::Error::Api(status) if is_unknown_kind(status) => match resource.split_once('.') {
            Some((_, "weft.dev")) => format!(
                "the cluster does not know {resource}: install Weft's CustomResourceDefinitions (helm install weft-crds deploy/charts/mesh-crds)"
            ),
            _ => format!("the cluster does not serve {resource}: Weft needs Kubernetes 1.32 or newer"),
        },
        kube::Error::Api(status) if status.code == 401 => {
            format!("the API server does not know the controller's token: cannot {verb} {resource}")
        }
        kube::Error::Api(status) => format!("cannot {verb} {resource}: {}", one_line(&status.message)),
        error => format!("cannot {verb} {resource}: {}", one_line(&innermost(error))),
    }
}

/// Nobody serves the path. An object's own absence names the object instead.
pub fn is_unknown_kind(status: &kube::core::Status) -> bool {
    let message = &status.message;
    status.code == 404
        && (message.contains("could not find the requested resource") || message.contains("page not found"))
}

/// Layers of clients repeat each other; the last one says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
