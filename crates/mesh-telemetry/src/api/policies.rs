//! Policies, as an agent has them in force and as a controller knows them to be.

use mesh_model::policy::{Action, Mode};
use serde::{Deserialize, Serialize};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// ALLOW or DENY.
    pub action: Action,
    /// Enforce or Audit.
    pub mode: Mode,
    /// Whom it is about, in words.
    pub targets: Vec<String>,
    /// What it matches, in words: any of these.
    pub rules: Vec<String>,
    /// Pods of the mesh that it is about; on an agent, those of its node.
    pub pods: u64,
    /// Of the object; `null` on an agent, and where the object has none.
    pub generation: Option<i64>,
    /// Nodes with such pods whose agents have not applied it yet; empty on an agent.
    pub nodes_pending: Vec<String>,
    /// What its status says, on a controller.
    pub conditions: Vec<ConditionRow>,
}

/// One condition of a policy's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRow {
    /// `Accepted`, `Enforced`, or `Warning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// A word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// The generation that this is about.
    pub observed_generation: Option<i64>,
}

impl PolicyRow {
    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&ConditionRow> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether every node that must know it as it is now has applied it.
    pub fn is_enforced(&self) -> bool {
        self.condition("Enforced")
            .is_some_and(|enforced| enforced.status && enforced.observed_generation == self.generation)
    }
}
