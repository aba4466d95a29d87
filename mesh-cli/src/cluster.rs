//! What is asked of Kubernetes, or told to it: labels, NetworkPolicies, whether the mesh is installed.
//!
//! ```text
//! --kubeconfig, --context, KUBECONFIG, ~/.kube/config ─▶ Place ─▶ Cluster: objects in, findings out
//! ```
//!
//! Reads with the rights of the kubeconfig's user; writes one label, when told to. Not here: the admin ports of agents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use mesh_crd::CAPTURE_LABEL;
use mesh_crd::network_policy::{Cut, Labels, Policy, Subject, cuts};
use serde::de::DeserializeOwned;

use crate::args::{Global, Target};

pub(crate) mod checks;

/// Objects in one answer of the API server.
const PAGE: u32 = 500;

/// Where the cluster is, as the command line says.
#[derive(Debug)]
pub(crate) struct Place {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    timeout: Duration,
}

/// The cluster's API.
pub(crate) struct Cluster {
    client: Client,
    runtime: tokio::runtime::Runtime,
    timeout: Duration,
}

/// Why the cluster has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// Nothing says where the cluster is, or what does is wrong.
    #[error("no cluster: name a kubeconfig with --kubeconfig or KUBECONFIG")]
    NoConfig(#[source] kube::config::KubeconfigError),
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Unusable(#[source] Box<kube::Error>),
    /// This process cannot wait for an answer.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    /// No answer.
    #[error("the API server does not answer within {} s (--timeout waits longer)", .0.as_secs_f32())]
    Timeout(Duration),
    /// The API server says no.
    #[error("cannot {what}: {message}")]
    Denied {
        /// What was tried.
        what: String,
        /// What it says.
        message: String,
    },
    /// The API server cannot be reached.
    #[error("cannot {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What it says.
        source: Box<kube::Error>,
    },
}

impl ClusterError {
    /// Nobody there, in contrast to somebody who says no.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::NoConfig(_) | Self::Timeout(_) | Self::Api { .. } => true,
            Self::Denied { .. } | Self::Unusable(_) | Self::Runtime(_) => false,
        }
    }
}

impl Place {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            kubeconfig: global.kubeconfig.clone(),
            context: global.context.clone(),
            timeout: global.timeout,
        }
    }

    /// Whether something says where the cluster is.
    pub(crate) fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some() || Kubeconfig::read().is_ok()
    }

    /// Opens it; nothing is asked yet.
    pub(crate) fn open(&self) -> Result<Cluster, ClusterError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClusterError::Runtime)?;
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let client = runtime.block_on(async {
            let config = match &self.kubeconfig {
                Some(file) => match Kubeconfig::read_from(file) {
                    Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                    Err(error) => Err(error),
                },
                None => Config::from_kubeconfig(&options).await,
            };
            let config = config.map_err(ClusterError::NoConfig)?;
            Client::try_from(config).map_err(|error| ClusterError::Unusable(Box::new(error)))
        })?;
        Ok(Cluster { client, runtime, timeout: self.timeout })
    }
}

impl Cluster {
    /// Waits for an answer.
    fn wait<T>(
        &self,
        what: impl FnOnce() -> String,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(self.timeout, answer).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                Err(ClusterError::Denied { what: what(), message: status.message.clone() })
            }
            Ok(Err(error)) => Err(ClusterError::Api { what: what(), source: Box::new(error) }),
            Err(_) => Err(ClusterError::Timeout(self.timeout)),
        }
    }

    /// All objects of a kind, page by page.
    fn all<K>(&self) -> Result<Vec<K>, ClusterError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = self.wait(|| format!("list {}", K::plural(&())), api.list(&params))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// NetworkPolicies that cut tunnels between captured pods, `also` counted among these.
    pub(crate) fn cuts(&self, also: Option<&Target>) -> Result<Vec<Cut>, ClusterError> {
        let policies: Vec<NetworkPolicy> = self.all()?;
        if policies.is_empty() {
            return Ok(Vec::new());
        }
        let policies: Vec<Policy> = policies
            .into_iter()
            .filter_map(|policy| {
                let (namespace, name) = (policy.metadata.namespace?, policy.metadata.name?);
                Some(Policy { namespace, name, spec: policy.spec? })
            })
            .collect();
        let namespaces: BTreeMap<String, Labels> = self
            .all::<Namespace>()?
            .into_iter()
            .filter_map(|namespace| {
                Some((namespace.metadata.name?, namespace.metadata.labels.unwrap_or_default()))
            })
            .collect();
        let pods: Vec<Candidate> = self
            .all::<Pod>()?
            .into_iter()
            .filter_map(Candidate::new)
            .filter(|pod| pod.is_captured(&namespaces, also))
            .collect();
        let subjects: Vec<Subject<'_>> = pods.iter().map(Candidate::subject).collect();
        Ok(cuts(&policies, &namespaces, &subjects))
    }

    /// Puts the capture label on a namespace or a pod, or takes it off.
    pub(crate) fn label(&self, target: &Target, value: Option<&str>) -> Result<(), ClusterError> {
        let patch = serde_json::json!({"metadata": {"labels": {CAPTURE_LABEL: value}}});
        let (patch, params) = (Patch::Merge(&patch), PatchParams::default());
        let client = self.client.clone();
        let (namespace, what) = (&target.namespace, || format!("label {target}"));
        match &target.pod {
            Some(pod) => {
                self.wait(
                    what,
                    Api::<Pod>::namespaced(client, namespace).patch_metadata(pod, &params, &patch),
                )?;
            }
            None => {
                self.wait(what, Api::<Namespace>::all(client).patch_metadata(namespace, &params, &patch))?;
            }
        }
        Ok(())
    }
}

/// A pod that may be captured.
struct Candidate {
    namespace: String,
    name: String,
    labels: Labels,
    addresses: Vec<IpAddr>,
}

impl Candidate {
    /// Not one on the host's network, and not one that has finished.
    fn new(pod: Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if is_over || spec.host_network == Some(true) {
            return None;
        }
        let addresses = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
        let labels = pod.metadata.labels.unwrap_or_default();
        Some(Self { namespace: pod.metadata.namespace?, name: pod.metadata.name?, labels, addresses })
    }

    fn is_captured(&self, namespaces: &BTreeMap<String, Labels>, also: Option<&Target>) -> bool {
        let label = |labels: &Labels| labels.get(CAPTURE_LABEL).map(|word| word == "enabled");
        let is_meant = also.is_some_and(|target| {
            target.namespace == self.namespace && target.pod.as_ref().is_none_or(|pod| *pod == self.name)
        });
        let own = if is_meant && also.is_some_and(|target| target.pod.is_some()) {
            Some(true)
        } else {
            label(&self.labels)
        };
        own.unwrap_or_else(|| is_meant || namespaces.get(&self.namespace).and_then(label) == Some(true))
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            namespace: &self.namespace,
            name: &self.name,
            labels: &self.labels,
            addresses: &self.addresses,
        }
    }
}
