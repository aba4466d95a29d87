//! What is in force on this node, policy by policy.

use std::collections::HashMap;

use mesh_model::World;
use mesh_model::policy::{Policy, PolicyKey};
use mesh_telemetry::api::PolicyRow;

/// Every policy that this node knows, with how many of its own pods each is about.
pub(super) fn rows(world: &World, node: &str) -> Vec<PolicyRow> {
    let mut pods: HashMap<&PolicyKey, u64> = HashMap::new();
    for workload in world.workloads().filter(|workload| *workload.node == *node && workload.enrolled) {
        for policy in world.rules_for(workload).policies {
            *pods.entry(&policy.key).or_default() += 1;
        }
    }
    world.policies().map(|policy| row(policy, pods.get(&policy.key).copied().unwrap_or(0))).collect()
}

fn row(policy: &Policy, pods: u64) -> PolicyRow {
    PolicyRow {
        namespace: policy.key.namespace.to_string(),
        name: policy.key.name.to_string(),
        action: policy.action,
        mode: policy.mode,
        targets: targets(policy),
        rules: policy.rules.iter().map(ToString::to_string).collect(),
        pods,
        generation: None,
        nodes_pending: Vec::new(),
        conditions: Vec::new(),
    }
}

fn targets(policy: &Policy) -> Vec<String> {
    let mesh = policy.reach.mesh.then(|| "the whole mesh".to_owned());
    let namespaces = policy.reach.namespaces.iter().map(|namespace| format!("namespace {namespace}"));
    let all: Vec<String> = mesh.into_iter().chain(namespaces).collect();
    if all.is_empty() { vec!["pods that it selects".into()] } else { all }
}
