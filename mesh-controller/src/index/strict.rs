//! What `mtls: Strict` is felt by: Services whose captured pods would take no plaintext at the ports that stand behind it.
//!
//! Overrides of the MeshConfig count as they are; where they say nothing, strict is assumed, whatever is in force.

use std::collections::BTreeSet;

use mesh_model::policy::Mtls;
use mesh_model::{ServiceKey, Uid, Untouched, Workload};

use super::Index;

impl Index {
    /// Whether plaintext to a captured pod's port would be refused.
    pub fn would_refuse_plaintext(&self, workload: &Workload, port: u16) -> bool {
        let overrides = workload.bindings.iter().flat_map(|bindings| &bindings.mtls);
        let says = overrides.into_iter().find(|one| one.ports.contains(&port)).map(|one| one.mtls);
        workload.enrolled && says != Some(Mtls::Permissive)
    }

    /// Services and ports of theirs behind which there is such a pod.
    pub fn strict_ports(&self) -> BTreeSet<(ServiceKey, u16)> {
        let mut found = BTreeSet::new();
        for service in self.published_services.values() {
            for endpoint in &service.endpoints {
                let pod = |uid: &Uid| self.workloads.get(uid);
                let Some(workload) = endpoint.workload.as_ref().and_then(pod) else { continue };
                let refused =
                    endpoint.ports.iter().filter(|map| self.would_refuse_plaintext(workload, map.target));
                found.extend(refused.map(|map| (service.key.clone(), map.service)));
            }
        }
        found
    }

    /// Services that clients outside the cluster reach: by a node's port, or a load balancer.
    pub fn exposed_services(&self) -> BTreeSet<ServiceKey> {
        let is_exposed = |what: &Untouched| matches!(what, Untouched::NodePort(_) | Untouched::Proxied(_));
        let exposed = self.published_services.values().filter(|service| {
            !service.load_balancer_addresses.is_empty()
                || !service.external_addresses.is_empty()
                || service.untouched.iter().any(is_exposed)
        });
        exposed.map(|service| service.key.clone()).collect()
    }
}
