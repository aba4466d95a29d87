//! The way to a pod's own loopback: pods/portforward of the API server, over a WebSocket.
//!
//! ```text
//! Wanted (a node's agent, a controller, a pod) ──▶ find ──▶ Found ──▶ dial ──▶ API server ──▶ kubelet ──▶ 127.0.0.1:15000 of the pod
//! ```
//!
//! No port is opened on this machine: the stream is in this process. Weft's own pods are looked for in its own namespace alone, as
//! anybody may give a pod of theirs the labels of an agent. Whoever may do this administers Weft (docs/meshctl.md).

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{self, Poll, Waker};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use tokio::io::DuplexStream;

use super::{ClusterError, Link, PAGE, Place, near};

#[cfg(test)]
mod tests;

const AGENT: &str = "weft-agent";
const CONTROLLER: &str = "weft-controller";

/// Ways into pods of one cluster.
#[derive(Debug)]
pub(crate) struct Tunnels {
    place: Place,
    /// Weft's own.
    namespace: String,
    /// The admin port.
    port: u16,
}

/// Whom somebody wants to speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The agent of a node.
    Node(String),
    /// Any controller that is ready.
    Controller,
    /// A pod, by namespace and name.
    Pod(String, String),
}

/// A pod to speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its namespace.
    namespace: String,
    /// Its name.
    pod: String,
    /// The node it runs on, or is meant for; empty where nobody asked.
    pub(crate) node: String,
}

/// A pod that nobody is in, so that there is nobody to speak to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Down {
    pod: Found,
    /// `Pending`, `Failed`, …
    phase: String,
}

/// A pod of Weft's own, and how it is.
#[derive(Clone)]
struct Seen {
    found: Found,
    ready: bool,
    /// Nobody is in it.
    down: Option<String>,
}

/// What the node says of a stream that has ended, if it says anything.
pub(crate) struct Complaint(Mutex<Pin<Box<dyn Future<Output = Option<String>> + Send>>>);

impl Tunnels {
    /// Nothing is asked yet.
    pub(crate) fn new(place: Place, namespace: &str, port: u16) -> Arc<Self> {
        Arc::new(Self { place, namespace: namespace.into(), port })
    }

    /// The pod that is wanted.
    pub(crate) async fn find(&self, wanted: &Wanted) -> Result<Found, ClusterError> {
        let link = self.place.link().await?;
        match wanted {
            Wanted::Pod(namespace, pod) => {
                Ok(Found { namespace: namespace.clone(), pod: pod.clone(), node: String::new() })
            }
            Wanted::Controller => match self.pods(&link, CONTROLLER, None).await?.into_iter().next() {
                Some(controller) => controller.up().map_err(|down| down.error(wanted)),
                None => Err(self.nobody("no controller")),
            },
            Wanted::Node(node) => {
                if let Some(agent) = self.pods(&link, AGENT, Some(node)).await?.into_iter().next() {
                    return agent.up().map_err(|down| down.error(wanted));
                }
                let all = self.pods(&link, AGENT, None).await?;
                // One that is only meant for the node is not found by it.
                if let Some(agent) = all.iter().find(|agent| agent.found.node == *node) {
                    return agent.clone().up().map_err(|down| down.error(wanted));
                }
                let nodes: Vec<String> = all.into_iter().map(|agent| agent.found.node).collect();
                Err(match near(&nodes, node) {
                    near if near.is_empty() => self.nobody(&format!("no agent on node {node}")),
                    near => ClusterError::NoPod(format!("no agent on node {node}{near}")),
                })
            }
        }
    }

    /// The agent of every node that should have one, by the nodes' names.
    pub(crate) async fn agents(&self) -> Result<Vec<(String, Result<Found, Down>)>, ClusterError> {
        let link = self.place.link().await?;
        let mut agents = self.pods(&link, AGENT, None).await?;
        agents.retain(|agent| !agent.found.node.is_empty());
        if agents.is_empty() {
            return Err(self.nobody("no agent"));
        }
        // Stable: of two on one node the better one is first.
        agents.sort_by(|a, b| a.found.node.cmp(&b.found.node));
        agents.dedup_by(|a, b| a.found.node == b.found.node);
        Ok(agents.into_iter().map(|agent| (agent.found.node.clone(), agent.up())).collect())
    }

    /// A stream to the admin port, and what is said of it once it has ended.
    pub(crate) async fn dial(&self, found: &Found) -> Result<(DuplexStream, Complaint), ClusterError> {
        let link = self.place.link().await?;
        let api: Api<Pod> = Api::namespaced(link.client.clone(), &found.namespace);
        let mut forward = match api.portforward(&found.pod, &[self.port]).await {
            Ok(forward) => forward,
            Err(error) => {
                let error = self.no_forward(&link, found, error);
                return Err(self.with_near(&link, found, error).await);
            }
        };
        let stream = forward.take_stream(self.port);
        let complaint = forward.take_error(self.port);
        match (stream, complaint) {
            (Some(stream), Some(complaint)) => Ok((stream, Complaint(Mutex::new(Box::pin(complaint))))),
            // Both are there until they are taken.
            _ => Err(ClusterError::NoPod(format!("no stream to {found}"))),
        }
    }

    fn no_forward(&self, link: &Link, found: &Found, error: kube::Error) -> ClusterError {
        let needs = format!("get and create on pods/portforward in {}", found.namespace);
        ClusterError::of(format!("forward to port {} of {found}", self.port), needs, &link.server, error)
    }

    /// A pod that is not there, and those whose names are like it.
    async fn with_near(&self, link: &Link, found: &Found, error: ClusterError) -> ClusterError {
        let ClusterError::Denied { what, message, missing: true } = error else { return error };
        let api: Api<Pod> = Api::namespaced(link.client.clone(), &found.namespace);
        let known = api.list_metadata(&ListParams::default().limit(PAGE)).await;
        let known: Vec<String> =
            known.into_iter().flat_map(|list| list.items).map(|pod| pod.name_any()).collect();
        ClusterError::Denied { what, message: message + &near(&known, &found.pod), missing: true }
    }

    /// Pods of Weft's own, the ready ones first, those that nobody is in last.
    async fn pods(&self, link: &Link, name: &str, node: Option<&str>) -> Result<Vec<Seen>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(link.client.clone(), &self.namespace);
        let mut params = ListParams::default().labels(&format!("app.kubernetes.io/name={name}")).limit(PAGE);
        if let Some(node) = node {
            params = params.fields(&format!("spec.nodeName={node}"));
        }
        let mut found = Vec::new();
        loop {
            let page = api.list(&params).await.map_err(|error| {
                let needs = format!("list on pods in {}", self.namespace);
                ClusterError::of(format!("look for {name}"), needs, &link.server, error)
            })?;
            found.extend(page.items.iter().filter_map(seen));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        found.sort_by_key(|pod| (pod.down.is_some(), !pod.ready));
        Ok(found)
    }

    fn nobody(&self, what: &str) -> ClusterError {
        ClusterError::NoPod(format!(
            "{what} in namespace {}: is Weft installed in this cluster, and in this namespace? (--context, --weft-namespace)",
            self.namespace
        ))
    }
}

/// A pod, and whether somebody can be in it.
fn seen(pod: &Pod) -> Option<Seen> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let down = match (phase, &pod.metadata.deletion_timestamp) {
        (_, Some(_)) => Some("Terminating"),
        (Some("Running"), None) => None,
        (phase, None) => Some(phase.unwrap_or("Pending")),
    };
    let mut conditions = pod.status.iter().flat_map(|status| &status.conditions).flatten();
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone().or_else(|| meant_for(spec)).unwrap_or_default();
    let (namespace, name) = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
    Some(Seen { found: Found { namespace, pod: name, node }, ready, down: down.map(str::to_owned) })
}

/// The node that a DaemonSet made a pod for, before the scheduler has put it there.
fn meant_for(spec: &PodSpec) -> Option<String> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut fields = terms.iter().flat_map(|term| &term.match_fields).flatten();
    fields.find(|field| field.key == "metadata.name")?.values.as_ref()?.first().cloned()
}

impl Seen {
    /// The pod, if somebody can be in it.
    fn up(self) -> Result<Found, Down> {
        match self.down {
            None => Ok(self.found),
            Some(phase) => Err(Down { pod: self.found, phase }),
        }
    }
}

impl Down {
    /// Why nobody answers.
    pub(crate) fn error(self, wanted: &Wanted) -> ClusterError {
        let Found { namespace, pod, .. } = self.pod;
        ClusterError::NotRunning { whom: wanted.to_string(), phase: self.phase, namespace, pod }
    }
}

impl Complaint {
    /// What has been said by now.
    pub(crate) fn said(&self) -> Option<String> {
        let mut future = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match future.as_mut().poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(said) => said,
            Poll::Pending => None,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "the agent of node {node}"),
            Self::Controller => f.write_str("the controller"),
            Self::Pod(..) => f.write_str("the pod"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)
    }
}
