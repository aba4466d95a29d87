//! What is looked at in a cluster: its version, whether the mesh is installed and well, policies that would cut tunnels; what it is made
//! of, is in `surroundings`.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt as _};
use mesh_crd::{MESH_CONFIG, MeshConfig};
use mesh_telemetry::preflight::Check;
use serde::de::DeserializeOwned;

use super::{Cluster, ClusterError};
use crate::commands::chain;

/// The oldest Kubernetes whose service account tokens name their node.
const OLDEST: (u32, u32) = (1, 32);

impl Cluster {
    /// All checks. The first one that cannot be made is the last one.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        match self.version() {
            Ok(check) => checks.push(check),
            Err(error) => {
                let remedy = "name the cluster with --kubeconfig and --context";
                checks.push(Check::fail("kubernetes", chain(&error), remedy));
                return checks;
            }
        }
        type Look = fn(&Cluster) -> Result<Check, ClusterError>;
        let looks: [(&str, Look); 9] = [
            ("kernels", Self::kernels),
            ("cni", Self::network_plugin),
            ("clock", Self::clock),
            ("pod_security", Self::pod_security),
            ("crds", Self::crds),
            ("controller", Self::controller),
            ("agents", Self::agents),
            ("versions", Self::versions),
            ("network_policies", Self::network_policies),
        ];
        for (name, look) in looks {
            checks.push(look(self).unwrap_or_else(|error| {
                Check::warn(name, chain(&error), "the kubeconfig's user needs to read it to have it checked")
            }));
        }
        checks
    }

    fn version(&self) -> Result<Check, ClusterError> {
        let info =
            self.wait(|| "ask for the version".into(), "get on /version", self.client.apiserver_version())?;
        let number =
            |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap_or(0);
        let message = format!("Kubernetes {}", info.git_version);
        Ok(match (number(&info.major), number(&info.minor)) >= OLDEST {
            true => Check::pass("kubernetes", message),
            false => Check::fail(
                "kubernetes",
                message,
                "tokens of service accounts name their node from 1.32: upgrade the cluster",
            ),
        })
    }

    fn crds(&self) -> Result<Check, ClusterError> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut missing = Vec::new();
        for name in ["authorizationpolicies.weft.dev", "meshconfigs.weft.dev", "nodestates.weft.dev"] {
            if self
                .wait(|| format!("get {name}"), "get on customresourcedefinitions", api.get_opt(name))?
                .is_none()
            {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            let message = format!("{} not there", missing.join(", "));
            return Ok(Check::warn(
                "crds",
                message,
                "helm install weft-crds deploy/charts/mesh-crds --namespace weft-system --create-namespace",
            ));
        }
        let api: Api<MeshConfig> = Api::all(self.client.clone());
        let config =
            self.wait(|| "get the MeshConfig".into(), "get on meshconfigs", api.get_opt(MESH_CONFIG))?;
        let conditions = config.and_then(|config| config.status).map(|status| status.conditions);
        let refused = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "Accepted" && condition.status == "False");
        Ok(match refused {
            Some(condition) => Check::fail(
                "crds",
                format!("MeshConfig {MESH_CONFIG} is not in force: {}", condition.message),
                "put it right; what was in force before stays",
            ),
            None => Check::pass("crds", "installed"),
        })
    }

    fn controller(&self) -> Result<Check, ClusterError> {
        let Some(deployment) = self.of_the_release::<Deployment>("weft-controller")? else {
            return Ok(not_installed("controller"));
        };
        let namespace = deployment.namespace().unwrap_or_default();
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        let message = format!("{ready} ready");
        Ok(match ready {
            0 => {
                let remedy = format!("kubectl -n {namespace} logs deployment/weft-controller");
                Check::fail("controller", message, &remedy)
            }
            _ => Check::pass("controller", message),
        })
    }

    fn agents(&self) -> Result<Check, ClusterError> {
        let Some(agents) = self.of_the_release::<DaemonSet>("weft-agent")? else {
            return Ok(not_installed("agents"));
        };
        let namespace = agents.namespace().unwrap_or_default();
        let (ready, wanted) =
            agents.status.map_or((0, 0), |status| (status.number_ready, status.desired_number_scheduled));
        let message = format!("{ready} of {wanted} ready");
        Ok(match ready >= wanted {
            true => Check::pass("agents", message),
            false => {
                let remedy = format!("kubectl -n {namespace} get pods -o wide, then logs of those");
                Check::warn("agents", message, &remedy)
            }
        })
    }

    /// An object of the release, in whatever namespace it was installed.
    pub(super) fn of_the_release<K>(&self, name: &str) -> Result<Option<K>, ClusterError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let all: Api<K> = Api::all(self.client.clone());
        let needs = format!("get and list on {}", K::plural(&()));
        match self.wait(|| format!("look for {name}"), &needs, all.list(&named)) {
            Ok(found) => Ok(found.items.into_iter().next()),
            Err(ClusterError::Forbidden { .. }) => {
                // All that is looked at where the user may not look everywhere.
                let namespace = &self.namespace;
                let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
                self.wait(|| format!("get {name} in {namespace}"), &needs, api.get_opt(name))
            }
            Err(error) => Err(error),
        }
    }

    fn network_policies(&self) -> Result<Check, ClusterError> {
        let cuts = self.cuts(None)?;
        if cuts.is_empty() {
            return Ok(Check::pass("network_policies", "none cuts tunnels"));
        }
        let words: Vec<String> = cuts.iter().map(ToString::to_string).collect();
        Ok(Check::fail("network_policies", words.join("; "), "see docs/network-policies.md"))
    }
}

fn not_installed(name: &str) -> Check {
    let remedy = "helm install weft deploy/charts/mesh --namespace weft-system";
    Check::warn(name, "not installed", remedy)
}
