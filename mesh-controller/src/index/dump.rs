//! All of it, for whoever tries a policy out elsewhere.

use mesh_model::MeshSettings;
use mesh_model::policy::Policy;
use mesh_telemetry::api::{DumpedService, DumpedWorkload};

use super::{Index, in_namespace};

impl Index {
    /// What the operator set, as agents are told.
    pub fn mesh_settings(&self) -> Option<&MeshSettings> {
        self.mesh.as_ref().map(|mesh| &mesh.settings)
    }

    /// Workloads as they were last given out with their labels, Services with their pods, and policies.
    pub fn dump(&self) -> (Vec<DumpedWorkload>, Vec<DumpedService>, Vec<Policy>) {
        let of_pod = |workload: &mesh_model::Workload| DumpedWorkload {
            workload: workload.clone(),
            labels: self.pod_of(&workload.uid).map(|pod| pod.labels.clone()).unwrap_or_default(),
        };
        let mut workloads: Vec<DumpedWorkload> = self.workloads.values().map(of_pod).collect();
        workloads.sort_by(|a, b| a.workload.uid.cmp(&b.workload.uid));
        let services = self.services.values().map(|service| {
            let pods = in_namespace(&self.pods, &service.key.namespace);
            let mut pods: Vec<_> = pods
                .filter(|(_, pod)| self.serves(&service.key, pod))
                .map(|(_, pod)| pod.uid.clone())
                .collect();
            pods.sort_unstable();
            DumpedService {
                namespace: service.key.namespace.to_string(),
                name: service.key.name.to_string(),
                pods,
            }
        });
        (workloads, services.collect(), self.all_authored().map(|authored| authored.policy.clone()).collect())
    }
}
