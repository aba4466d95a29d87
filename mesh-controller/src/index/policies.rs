//! Which NetworkPolicies cut tunnels between the pods that the mesh captures.
//!
//! Costs more than a flush may, so it is asked for now and then, and answers only when something may be different.

use std::collections::BTreeMap;

use mesh_crd::network_policy::{Cut, Policy, Subject, cuts};

use super::Index;

impl Index {
    /// The policies that cut tunnels; nothing if that is as it was at the last call.
    pub fn cuts_if_touched(&mut self) -> Option<Vec<Cut>> {
        if !std::mem::take(&mut self.dirty_policies) {
            return None;
        }
        if self.policies.is_empty() {
            return Some(Vec::new());
        }
        let policies: Vec<Policy> = self.policies.values().cloned().collect();
        let namespaces: BTreeMap<_, _> = self
            .namespaces
            .iter()
            .map(|(name, fact)| (name.as_ref().to_owned(), fact.labels.clone()))
            .collect();
        let enrolled = self.workloads.values().filter(|workload| workload.enrolled);
        let subjects: Vec<Subject<'_>> = enrolled
            .filter_map(|workload| {
                let pod = self.pod_of(&workload.uid)?;
                Some(Subject {
                    namespace: &pod.namespace,
                    name: &pod.name,
                    labels: &pod.labels,
                    addresses: &workload.addresses,
                })
            })
            .collect();
        Some(cuts(&policies, &namespaces, &subjects))
    }
}
