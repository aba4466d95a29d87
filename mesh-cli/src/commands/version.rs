//! `meshctl version`: meshctl's own, that of whom it asks, and those of the whole cluster where one is named.

use mesh_telemetry::api::path;
use serde_json::{Value, json};

use super::{Answer, Context, Failure, complaint};
use crate::args::VersionArgs;
use crate::client::OWN_VERSION as OWN;
use crate::render::Tone;
use crate::render::fields::Fields;

/// What is known of whom.
#[derive(Debug, Default)]
struct Known {
    agent: Option<Value>,
    controller: Option<Value>,
    /// `{"node", "version"}`
    agents: Vec<Value>,
}

pub(super) fn run(context: &Context, args: &VersionArgs) -> Result<Answer, Failure> {
    let mut known = Known::default();
    let mut failed = None;
    if !args.client {
        if let Err(error) = of_end(context, &mut known) {
            failed = Some(error);
        }
        if !context.socket_named && context.cluster.is_named() {
            match of_cluster(context, &mut known) {
                // From where there is no node, the cluster is all that can be asked.
                Ok(()) if failed.as_ref().is_some_and(|failure| failure.exit_code() == 3) => failed = None,
                Ok(()) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    let mut versions = json!({"client": {"version": OWN}});
    if let Some(version) = &known.controller {
        versions["controller"] = json!({"version": version});
    }
    if let Some(version) = &known.agent {
        versions["agent"] = json!({"version": version});
    } else if failed.is_some() && known.controller.is_none() {
        versions["agent"] = Value::Null;
    }
    if !known.agents.is_empty() {
        versions["agents"] = known.agents.clone().into();
    }
    // The half that is known is worth printing.
    Ok(Answer {
        stdout: context.one(&versions, || fields(&known).render(context.style)),
        note: failed.as_ref().map(complaint).unwrap_or_default(),
        exit_code: failed.as_ref().map_or(0, Failure::exit_code),
    })
}

fn of_end(context: &Context, known: &mut Known) -> Result<(), Failure> {
    let version = |status: &Value| status.get("version").cloned().unwrap_or(Value::Null);
    for (node, status) in context.each(path::STATUS)? {
        if let Some(node) = node {
            known.agents.push(json!({"node": node, "version": version(&status)}));
        } else if let Some(agents) = status.get("agents").and_then(Value::as_array) {
            known.controller = Some(version(&status));
            known.agents = agents
                .iter()
                .map(|agent| json!({"node": agent["node"], "version": agent["version"]}))
                .collect();
        } else {
            known.agent = Some(version(&status));
        }
    }
    Ok(())
}

fn of_cluster(context: &Context, known: &mut Known) -> Result<(), Failure> {
    let found = context.cluster.open()?.weft_versions()?;
    if known.controller.is_none() {
        known.controller = found.controller.map(Value::from);
    }
    if known.agents.is_empty() {
        known.agents = found
            .agents
            .into_iter()
            .map(|(node, version)| json!({"node": node, "version": version}))
            .collect();
    }
    Ok(())
}

fn fields(known: &Known) -> Fields {
    let word = |version: &Value| {
        let word = version.as_str().unwrap_or("unknown").to_owned();
        (if word == OWN { Tone::Plain } else { Tone::Warn }, word)
    };
    let mut fields = Fields::default();
    fields.field("Client", OWN);
    for (name, version) in [("Controller", &known.controller), ("Agent", &known.agent)] {
        if let Some(version) = version {
            let (tone, word) = word(version);
            fields.toned(name, tone, word);
        }
    }
    if !known.agents.is_empty() {
        fields.list(
            "Agents",
            known.agents.iter().map(|agent| {
                let (tone, word) = word(&agent["version"]);
                (tone, format!("{word} ({})", agent["node"].as_str().unwrap_or_default()))
            }),
        );
    }
    fields
}
