//! What `mtls: Strict` cuts, or would: said in the condition `Accepted` of the MeshConfig, before somebody finds out otherwise.
//!
//! ```text
//! webhook configurations, APIServices ── Service and port ─┐
//! NodePort, LoadBalancer, external IPs ────────────────────┼─▶ a captured pod is behind it, and takes no plaintext there
//! plaintext of the last hour, from the agents ─────────────┘
//! ```
//!
//! Looked at every half minute, by the leader alone: neither kind is worth a watch. Callers are those of the agents that are connected
//! to the leader.

use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ServiceReference, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use mesh_model::ServiceKey;
use serde::de::DeserializeOwned;

use crate::publish::Bare;

#[cfg(test)]
mod tests;

/// Names in each list before the rest is counted.
const NAMED: usize = 5;
/// Where the API server dials a Service that names no port.
const HTTPS: u16 = 443;

/// Services that the API server itself dials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dialled {
    webhooks: Vec<(String, ServiceKey, u16)>,
    api_services: Vec<(String, ServiceKey, u16)>,
}

impl Dialled {
    /// Asks for all of them; the resource where that failed. What the API server does not serve, nobody has.
    pub(super) async fn list(client: &Client) -> Result<Self, (&'static str, kube::Error)> {
        let mut dialled = Self::default();
        let validating: Vec<ValidatingWebhookConfiguration> =
            all(client, "validatingwebhookconfigurations.admissionregistration.k8s.io").await?;
        for one in validating {
            let name = one.name_any();
            let webhooks = one.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
            dialled.add("ValidatingWebhookConfiguration", &name, webhooks);
        }
        let mutating: Vec<MutatingWebhookConfiguration> =
            all(client, "mutatingwebhookconfigurations.admissionregistration.k8s.io").await?;
        for one in mutating {
            let name = one.name_any();
            let webhooks = one.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
            dialled.add("MutatingWebhookConfiguration", &name, webhooks);
        }
        let aggregated: Vec<APIService> = all(client, "apiservices.apiregistration.k8s.io").await?;
        for one in aggregated {
            let name = one.name_any();
            let service = one.spec.and_then(|spec| spec.service);
            let of = service.and_then(|service| Some((service.namespace?, service.name?, service.port)));
            if let Some((namespace, service, port)) = of {
                let key = ServiceKey::new(&namespace, &service);
                dialled.api_services.push((format!("APIService {name}"), key, port_of(port)));
            }
        }
        Ok(dialled)
    }

    fn add(&mut self, kind: &str, name: &str, clients: impl Iterator<Item = WebhookClientConfig>) {
        for ServiceReference { namespace, name: service, port, .. } in
            clients.filter_map(|client| client.service)
        {
            let key = ServiceKey::new(&namespace, &service);
            self.webhooks.push((format!("{kind} {name}"), key, port_of(port)));
        }
    }
}

async fn all<K>(client: &Client, resource: &'static str) -> Result<Vec<K>, (&'static str, kube::Error)>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err((resource, error)),
    }
}

fn port_of(port: Option<i32>) -> u16 {
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS)
}

/// Whom strict cuts, in a sentence; nothing if nobody. Pure.
pub(super) fn sentence(bare: &Bare, dialled: &Dialled, is_strict: bool) -> Option<String> {
    let by_the_server = |all: &[(String, ServiceKey, u16)]| -> BTreeSet<String> {
        let cut = all.iter().filter(|(_, key, port)| bare.ports.contains(&(key.clone(), *port)));
        cut.map(|(name, key, _)| format!("{name} (Service {}/{})", key.namespace, key.name)).collect()
    };
    let exposed = bare.exposed.iter().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
    let lists = [
        ("admission webhooks", by_the_server(&dialled.webhooks)),
        ("APIServices", by_the_server(&dialled.api_services)),
        ("clients outside the cluster of the Services", exposed),
        ("callers in plaintext of the last hour", bare.callers.clone()),
    ];
    let lists: Vec<String> = lists
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", named(&names)))
        .collect();
    let cuts = if is_strict { "cuts" } else { "would cut" };
    (!lists.is_empty()).then(|| {
        format!(
            "mtls: Strict {cuts} {}. Open their ports with mtlsOverrides (docs/policy.md has the recipe for each)",
            lists.join("; ")
        )
    })
}

fn named(names: &BTreeSet<String>) -> String {
    let mut text = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
