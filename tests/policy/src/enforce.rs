//! Putting policies and settings in force, and knowing that they are.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Result;
use lab::Lab;
use serde_json::Value;

/// Every object that is written is of a generation of its own, as an API server would have it.
static GENERATION: AtomicI64 = AtomicI64::new(1);
/// Every node must have answered within this.
const PATIENCE: Duration = Duration::from_secs(15);

/// A policy, to be written.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// `NAMESPACE/NAME`.
    pub key: &'a str,
    /// `targetRefs`, `action` and the rest, in one line of YAML.
    pub spec: &'a str,
}

fn file(key: &str) -> String {
    format!("policy-{}.yaml", key.replace('/', "-"))
}

/// Writes a policy, and waits until every node that must know it does.
pub fn put(lab: &Lab, policy: Policy<'_>) -> Result<()> {
    let generation = write(lab, policy)?;
    await_enforced(lab, policy.key, generation)
}

/// Writes a policy and waits for nothing; its generation.
pub fn write(lab: &Lab, policy: Policy<'_>) -> Result<i64> {
    let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
    let (namespace, name) = policy.key.split_once('/').unwrap_or(("shop", policy.key));
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}, generation: {generation}}}\nspec: {{{}}}\n",
        policy.spec
    );
    lab.write_object(&file(policy.key), &text)?;
    Ok(generation)
}

/// Waits until a generation of a policy is enforced.
pub fn await_enforced(lab: &Lab, key: &str, generation: i64) -> Result<()> {
    lab::eventually(PATIENCE, || {
        let row = row(lab, key).map_err(|error| format!("{error:#}"))?;
        let said = row["conditions"].as_array().into_iter().flatten().find(|said| said["type"] == "Enforced");
        match said {
            Some(said) if said["status"] == true && said["observed_generation"] == generation => Ok(()),
            _ => Err(row.to_string()),
        }
    })
}

/// What the controller says of a policy; null if it knows none of the name.
pub fn row(lab: &Lab, key: &str) -> Result<Value> {
    let rows = lab.controller().admin("/v1/policies")?;
    let named = |row: &&Value| {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name")) == key
    };
    Ok(rows.as_array().into_iter().flatten().find(named).cloned().unwrap_or(Value::Null))
}

/// Takes a policy away, and waits until no node has it.
pub fn remove(lab: &Lab, key: &str) -> Result<()> {
    lab.remove_object(&file(key))?;
    for agent in lab.agents() {
        lab::eventually(PATIENCE, || {
            let rows = agent.admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
            let (namespace, name) = key.split_once('/').unwrap_or(("shop", key));
            let mut all = rows.as_array().into_iter().flatten();
            match all.any(|row| row["namespace"] == namespace && row["name"] == name) {
                true => Err(format!("the agent on {} still has {key}", agent.node())),
                false => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// Sets what the mesh says of plaintext and more, and waits until every agent has it. `spec` is one line of YAML.
pub fn configure(lab: &Lab, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    );
    lab.write_object("mesh-config.yaml", &text)?;
    settled(lab)
}

/// Waits until every agent has acknowledged everything that the controller has. A probe tells: an object that is written
/// after all that was written before.
pub fn settled(lab: &Lab) -> Result<()> {
    let probe =
        Policy { key: "weft-system/probe", spec: "targetRefs: [{kind: Namespace}], action: DENY, rules: []" };
    put(lab, probe)
}
