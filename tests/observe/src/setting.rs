//! What the tests' mesh is told: its MeshConfig and its policies, as files of the lab, and waiting until agents have them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lab::{Agent, Lab, eventually};
use serde_json::Value;

/// How long an object may take until it is in force.
const SOON: Duration = Duration::from_secs(20);

/// Writes the MeshConfig anew; `spec` is one line of YAML without its braces. Returns at once.
pub fn configure(lab: &Lab, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    );
    lab.write_object("mesh-config.yaml", &text)
}

/// Waits until each agent has this value for a setting, by its name in `meshctl config dump`.
pub fn await_setting(lab: &Lab, name: &str, wanted: &Value) -> Result<()> {
    for agent in lab.agents() {
        eventually(SOON, || {
            let found = setting(agent, name).map_err(|error| format!("{error:#}"))?;
            if found == *wanted { Ok(()) } else { Err(format!("{name} is {found}")) }
        })
        .with_context(|| format!("wait for {name} to be {wanted} on node {}", agent.node()))?;
    }
    Ok(())
}

/// A setting that is in force on a node.
pub fn setting(agent: &Agent, name: &str) -> Result<Value> {
    let dump = agent.admin("/v1/config")?;
    let mut rows = dump["settings"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["name"] == name).with_context(|| format!("no setting {name}"))?;
    Ok(row["value"].clone())
}

/// The policy that refuses what one service account of the namespace dials there, and waits until each agent has it.
pub fn deny(lab: &Lab, account: &str) -> Result<String> {
    let name = format!("no-{account}");
    lab.write_object(
        &format!("policy-{name}.yaml"),
        &format!(
            "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: shop, generation: 1}}\nspec: {{targetRefs: [{{kind: Namespace}}], \
             action: DENY, rules: [{{sources: [{{serviceAccount: {{name: {account}}}}}]}}]}}\n"
        ),
    )?;
    for agent in lab.agents() {
        eventually(SOON, || {
            let rows = agent.admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
            let has = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == name.as_str()));
            if has { Ok(()) } else { Err(format!("{} has {rows}", agent.node())) }
        })?;
    }
    Ok(format!("shop/{name}"))
}
