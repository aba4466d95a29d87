//! What is asked of Kubernetes, or told to it: labels, NetworkPolicies, whether the mesh is installed.
//!
//! ```text
//! --kubeconfig, --context, KUBECONFIG, ~/.kube/config ─▶ Place ─▶ Link ─┬▶ Cluster: objects in, findings out
//!                                                                       └▶ forward: a stream to a pod's admin port
//! ```
//!
//! Acts with the rights of the kubeconfig's user; writes one label, when told to. Near names are offered for what is not there.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource, ResourceExt as _};
use mesh_crd::network_policy::{Cut, Labels, Policy, Subject, cuts};
use mesh_crd::{AuthorizationPolicy, CAPTURE_LABEL};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::args::{Global, Target};
use crate::render::human;

pub(crate) mod checks;
mod error;
pub(crate) mod forward;
mod surroundings;

pub(crate) use error::ClusterError;
pub(crate) use surroundings::clock_check;

/// Objects in one answer of the API server.
const PAGE: u32 = 500;
/// Names that are offered in place of one that is not there.
const NEAR: usize = 3;

/// Where the cluster is, as the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    /// Weft's own namespace.
    namespace: String,
    timeout: Duration,
    runtime: Arc<Runtime>,
    /// Made when it is first needed.
    link: Arc<OnceCell<Link>>,
}

/// The client of a cluster's API.
#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    /// Where the API server is.
    server: String,
}

/// The cluster's API.
pub(crate) struct Cluster {
    client: Client,
    server: String,
    /// Weft's own.
    namespace: String,
    runtime: Arc<Runtime>,
    timeout: Duration,
}

impl Place {
    pub(crate) fn new(global: &Global, runtime: Arc<Runtime>) -> Self {
        Self {
            kubeconfig: global.kubeconfig.clone(),
            context: global.context.clone(),
            namespace: global.weft_namespace.clone(),
            timeout: global.timeout,
            runtime,
            link: Arc::default(),
        }
    }

    /// Whether something says where the cluster is.
    pub(crate) fn is_named(&self) -> bool {
        self.is_asked_for() || Kubeconfig::read().is_ok()
    }

    /// The command line itself says where it is.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    /// Opens it; nothing is asked yet.
    pub(crate) fn open(&self) -> Result<Cluster, ClusterError> {
        let Link { client, server } = self.runtime.block_on(self.link())?;
        let namespace = self.namespace.clone();
        Ok(Cluster { client, server, namespace, runtime: self.runtime.clone(), timeout: self.timeout })
    }

    /// The same, from within the runtime.
    pub(crate) async fn link(&self) -> Result<Link, ClusterError> {
        self.link.get_or_try_init(|| self.connect()).await.cloned()
    }

    async fn connect(&self) -> Result<Link, ClusterError> {
        let file = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let file = file.map_err(ClusterError::NoConfig)?;
        if let Some(name) = &self.context {
            let known: Vec<String> = file.contexts.iter().map(|context| context.name.clone()).collect();
            if !known.contains(name) {
                let near = match near(&known, name) {
                    near if near.is_empty() && !known.is_empty() => format!(", only {}", known.join(", ")),
                    near => near,
                };
                return Err(ClusterError::NoContext { name: name.clone(), near });
            }
        }
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = Config::from_custom_kubeconfig(file, &options).await.map_err(ClusterError::NoConfig)?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| ClusterError::Unusable(Box::new(error)))?;
        Ok(Link { client, server })
    }
}

/// `: is it A, B?` of those that are most like what was wanted; empty where none is.
pub(crate) fn near(known: &[String], wanted: &str) -> String {
    let alike = known.iter().filter(|known| human::is_like(known, wanted));
    let mut alike: Vec<_> = alike.map(|known| (strsim::damerau_levenshtein(known, wanted), known)).collect();
    alike.sort_unstable();
    alike.dedup();
    alike.truncate(NEAR);
    let alike = human::list(alike.into_iter().map(|(_, known)| known));
    if alike.is_empty() { alike } else { format!(": is it {alike}?") }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Waits for an answer. `needs` is what a Role must give for it.
    fn wait<T>(
        &self,
        what: impl FnOnce() -> String,
        needs: &str,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        match self.runtime.block_on(async { tokio::time::timeout(self.timeout, answer).await }) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ClusterError::of(what(), needs.into(), &self.server, error)),
            Err(_) => Err(ClusterError::Timeout { server: self.server.clone(), after: self.timeout }),
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
            let (what, needs) =
                (|| format!("list {}", K::plural(&())), format!("list on {}", K::plural(&())));
            let page = self.wait(what, &needs, api.list(&params))?;
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

    /// Every AuthorizationPolicy, as its object and its status say.
    pub(crate) fn policies(&self) -> Result<Vec<AuthorizationPolicy>, ClusterError> {
        self.all()
    }

    /// Puts the capture label on a namespace or a pod, or takes it off.
    pub(crate) fn label(&self, target: &Target, value: Option<&str>) -> Result<(), ClusterError> {
        let patch = serde_json::json!({"metadata": {"labels": {CAPTURE_LABEL: value}}});
        let (patch, params) = (Patch::Merge(&patch), PatchParams::default());
        let client = self.client.clone();
        let (namespace, what) = (&target.namespace, || format!("label {target}"));
        let (labelled, known) = match &target.pod {
            Some(pod) => {
                let api = Api::<Pod>::namespaced(client, namespace);
                let needs = format!("patch on pods in {namespace}");
                let labelled = self.wait(what, &needs, api.patch_metadata(pod, &params, &patch));
                (labelled.map(|_| ()), Known::Pods(namespace, pod))
            }
            None => {
                let api = Api::<Namespace>::all(client);
                let labelled =
                    self.wait(what, "patch on namespaces", api.patch_metadata(namespace, &params, &patch));
                (labelled.map(|_| ()), Known::Namespaces(namespace))
            }
        };
        labelled.map_err(|error| match error {
            ClusterError::Denied { what, message, missing: true } => {
                ClusterError::Denied { what, message: message + &self.near(known), missing: true }
            }
            error => error,
        })
    }

    /// Names that are like the one that is not there. Whoever may not list them is told none.
    fn near(&self, known: Known<'_>) -> String {
        let first = ListParams::default().limit(PAGE);
        let nothing = || String::new();
        let (list, wanted) = match known {
            Known::Namespaces(name) => {
                let api = Api::<Namespace>::all(self.client.clone());
                (self.wait(nothing, "", api.list_metadata(&first)).map(|list| names(&list.items)), name)
            }
            Known::Pods(namespace, name) => {
                let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
                (self.wait(nothing, "", api.list_metadata(&first)).map(|list| names(&list.items)), name)
            }
        };
        list.map(|list| near(&list, wanted)).unwrap_or_default()
    }

    /// Which objects of a kind have labels: namespace and name of each. The API server reads the selector.
    pub(crate) fn labelled(
        &self,
        kind: Labelled,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<HashSet<(String, String)>, ClusterError> {
        match kind {
            Labelled::Pods => self.selected::<Pod>(namespace, selector),
            Labelled::Services => self.selected::<Service>(namespace, selector),
            Labelled::Accounts => self.selected::<ServiceAccount>(namespace, selector),
            Labelled::Policies => self.selected::<AuthorizationPolicy>(namespace, selector),
        }
    }

    fn selected<K>(
        &self,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<HashSet<(String, String)>, ClusterError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let plural = K::plural(&());
        let mut params = ListParams::default().labels(selector).limit(PAGE);
        let mut found = HashSet::new();
        loop {
            let what = || format!("select {plural} by {selector}");
            let page = self.wait(what, &format!("list on {plural}"), api.list_metadata(&params))?;
            found.extend(
                page.items
                    .into_iter()
                    .filter_map(|object| Some((object.metadata.namespace?, object.metadata.name?))),
            );
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }
}

/// Whose labels select.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Labelled {
    /// Pods.
    Pods,
    /// Services.
    Services,
    /// Service accounts.
    Accounts,
    /// AuthorizationPolicies.
    Policies,
}

/// What something is near to.
enum Known<'a> {
    /// A namespace.
    Namespaces(&'a str),
    /// A pod of a namespace.
    Pods(&'a str, &'a str),
}

fn names<K: Resource>(objects: &[K]) -> Vec<String> {
    objects.iter().map(|object| object.name_any()).collect()
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
