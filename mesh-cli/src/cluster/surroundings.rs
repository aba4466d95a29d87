//! What is looked at in a cluster before there is a mesh in it: kernels, the network plugin, the clock, pod security; and after: versions.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::ResourceExt as _;
use kube::api::Api;
use kube::client::Body;
use mesh_crd::NodeState;
use mesh_telemetry::api::Timestamp;
use mesh_telemetry::preflight::Check;

use super::{Cluster, ClusterError};
use crate::client;
use crate::render::human;

#[cfg(test)]
mod tests;

/// The oldest kernel that has all that Weft needs, and the oldest on which connections of one node go directly.
const KERNELS: [(u32, u32); 2] = [(5, 15), (6, 6)];
/// Nodes, or names, in one message.
const NAMED: usize = 5;
/// A clock that is so many seconds off is not kept by anybody.
const CLOCK_WARNS: u64 = 30;
/// Certificates begin ten minutes before they are signed: to a clock that is further behind they are not valid yet.
const CLOCK_FAILS: u64 = 600;
/// What carries pods' packets, by the names of its DaemonSets.
const PLUGINS: [(&str, &str); 12] = [
    ("antrea-agent", "Antrea"),
    ("aws-node", "Amazon VPC CNI"),
    ("azure-cns", "Azure CNI"),
    ("calico-node", "Calico"),
    ("canal", "Canal"),
    ("cilium", "Cilium"),
    ("kindnet", "kindnet"),
    ("kube-flannel", "Flannel"),
    ("kube-flannel-ds", "Flannel"),
    ("kube-router", "kube-router"),
    ("ovnkube-node", "OVN-Kubernetes"),
    ("weave-net", "Weave Net"),
];

/// Versions of Weft in a cluster.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    /// As the Deployment says that it was installed.
    pub(crate) controller: Option<String>,
    /// By node, as each agent told its controller.
    pub(crate) agents: Vec<(String, Option<String>)>,
}

impl Cluster {
    pub(super) fn kernels(&self) -> Result<Check, ClusterError> {
        let nodes: Vec<Node> = self.all()?;
        let kernels = nodes.into_iter().filter_map(|node| {
            let name = node.name_any();
            let info = node.status?.node_info?;
            (info.operating_system == "linux").then_some((name, info.kernel_version))
        });
        Ok(kernels_check(&kernels.collect::<Vec<_>>()))
    }

    pub(super) fn network_plugin(&self) -> Result<Check, ClusterError> {
        let sets: Vec<DaemonSet> = self.all()?;
        let found = sets.iter().find_map(|set| {
            let (_, plugin) = PLUGINS.iter().find(|(name, _)| set.metadata.name.as_deref() == Some(name))?;
            Some((*plugin, set.namespace().unwrap_or_default()))
        });
        let Some((plugin, namespace)) = found else {
            return Ok(Check::pass("cni", "no network plugin that is known by its name"));
        };
        if plugin != "Cilium" {
            return Ok(Check::pass("cni", format!("{plugin} (namespace {namespace})")));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let what = || "get the ConfigMap cilium-config".to_owned();
        let config = self.wait(what, "get on configmaps", api.get_opt("cilium-config"))?;
        let settings = config.and_then(|config| config.data).unwrap_or_default();
        let is = |key: &str| settings.get(key).map(String::as_str) == Some("true");
        Ok(cilium_check(
            is("kube-proxy-replacement") || is("bpf-lb-sock"),
            is("bpf-lb-sock-hostns-only"),
            is("enable-endpoint-routes"),
        ))
    }

    /// The API server's clock against this machine's.
    pub(super) fn clock(&self) -> Result<Check, ClusterError> {
        let request = http_request("/version");
        let answer = self.wait(|| "ask for the time".into(), "get on /version", self.client.send(request))?;
        let date = answer.headers().get("date").and_then(|date| client::date(date.to_str().ok()?));
        Ok(match date {
            Some(theirs) => clock_check("the API server", theirs, std::time::SystemTime::now().into()),
            None => Check::pass("clock", "the API server does not say what time it has"),
        })
    }

    /// Whether pods like the agent's are let into Weft's namespace.
    pub(super) fn pod_security(&self) -> Result<Check, ClusterError> {
        const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
        let namespace = &self.namespace;
        let api: Api<Namespace> = Api::all(self.client.clone());
        let what = || format!("get namespace {namespace}");
        let found = self.wait(what, "get on namespaces", api.get_opt(namespace))?;
        let Some(found) = found else {
            return Ok(Check::pass("pod_security", format!("namespace {namespace} is not there yet")));
        };
        Ok(match found.labels().get(ENFORCE).map(String::as_str) {
            None | Some("privileged") => {
                Check::pass("pod_security", format!("namespace {namespace} admits agents"))
            }
            Some(level) => Check::fail(
                "pod_security",
                format!("namespace {namespace} enforces {level}: no agent is let in"),
                format!("kubectl label --overwrite namespace {namespace} {ENFORCE}=privileged"),
            ),
        })
    }

    /// Which versions of Weft run here.
    pub(crate) fn weft_versions(&self) -> Result<Versions, ClusterError> {
        const VERSION: &str = "app.kubernetes.io/version";
        let controller = self.of_the_release::<Deployment>("weft-controller")?;
        let states: Vec<NodeState> = match self.all() {
            Ok(states) => states,
            // The kind is not there before it is installed.
            Err(ClusterError::Denied { missing: true, .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let agent = |state: NodeState| {
            let name = state.name_any();
            (name, state.status.and_then(|status| status.agent_version))
        };
        Ok(Versions {
            controller: controller.and_then(|deployment| deployment.labels().get(VERSION).cloned()),
            agents: states.into_iter().map(agent).collect(),
        })
    }

    pub(super) fn versions(&self) -> Result<Check, ClusterError> {
        let found = self.weft_versions()?;
        Ok(versions_check(client::OWN_VERSION, &found))
    }
}

fn http_request(path: &str) -> hyper::Request<Body> {
    let mut request = hyper::Request::new(Body::empty());
    if let Ok(path) = path.parse() {
        *request.uri_mut() = path;
    }
    request
}

/// A clock that is not ours, against ours.
pub(crate) fn clock_check(whose: &str, theirs: Timestamp, ours: Timestamp) -> Check {
    let off = theirs.unix().abs_diff(ours.unix());
    let side = if theirs > ours { "ahead of" } else { "behind" };
    let message = format!("{whose}'s clock is {} {side} this machine's", human::duration(off));
    let remedy =
        "set both by NTP: certificates and tokens are good for a time, and each end goes by its own clock";
    if off >= CLOCK_FAILS {
        Check::fail("clock", message, remedy)
    } else if off >= CLOCK_WARNS {
        Check::warn("clock", message, remedy)
    } else {
        Check::pass("clock", format!("{whose} and this machine agree"))
    }
}

fn kernels_check(kernels: &[(String, String)]) -> Check {
    let older = |than: (u32, u32)| -> Vec<String> {
        let older = kernels.iter().filter(|(_, release)| release_of(release).is_some_and(|own| own < than));
        older.map(|(node, release)| format!("{node} ({release})")).collect()
    };
    let [needed, direct] = KERNELS;
    let too_old = older(needed);
    if !too_old.is_empty() {
        let message = format!("too old on {}", some(&too_old));
        return Check::fail(
            "kernels",
            message,
            "Weft needs Linux 5.15 or newer on every node with captured pods",
        );
    }
    match older(direct) {
        tunnelled if tunnelled.is_empty() => Check::pass(
            "kernels",
            human::count(kernels.len() as u64, "node").to_string() + ", all new enough",
        ),
        tunnelled => Check::warn(
            "kernels",
            format!("older than Linux 6.6 on {}", some(&tunnelled)),
            "all works there, but connections of one node take the tunnel (docs/kernels.md)",
        ),
    }
}

/// `6.8.0-45-generic` is (6, 8).
fn release_of(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn cilium_check(replaces_kube_proxy: bool, host_only: bool, endpoint_routes: bool) -> Check {
    let mut lost = Vec::new();
    if replaces_kube_proxy && !host_only {
        lost.push("it picks Services' endpoints at connect(2), before Weft may see the Service (bpf-lb-sock-hostns-only is not true)");
    }
    if !endpoint_routes {
        lost.push(
            "without routes per endpoint (enable-endpoint-routes) connections of one node take the tunnel",
        );
    }
    match lost.is_empty() {
        true => Check::pass("cni", "Cilium, with routes per endpoint"),
        false => {
            let message = format!("Cilium: {}", lost.join("; "));
            Check::warn(
                "cni",
                message,
                "socketLB.hostNamespaceOnly=true and endpointRoutes.enabled=true in Cilium's chart (docs/services.md, docs/kernels.md)",
            )
        }
    }
}

fn versions_check(own: &str, found: &Versions) -> Check {
    let Some(controller) = &found.controller else {
        return Check::pass("versions", format!("meshctl {own}; no controller in the cluster"));
    };
    let others: Vec<String> = found
        .agents
        .iter()
        .filter(|(_, version)| version.as_ref().is_some_and(|version| version != controller))
        .map(|(node, version)| format!("{node} ({})", version.as_deref().unwrap_or_default()))
        .collect();
    if !others.is_empty() {
        let message = format!("controller {controller}, but not the agents of {}", some(&others));
        return Check::warn(
            "versions",
            message,
            "wait for the DaemonSet's rollout, or look at why it stands still",
        );
    }
    if own != controller {
        let message = format!("meshctl {own}, controller and agents {controller}");
        return Check::warn("versions", message, "take the meshctl of the mesh's version");
    }
    Check::pass("versions", format!("{own} everywhere"))
}

fn some(all: &[String]) -> String {
    let named = human::list(all.iter().take(NAMED));
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
