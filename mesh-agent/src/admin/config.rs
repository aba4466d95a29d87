//! `GET /v1/config`: everything that this agent holds, and where each setting comes from.
//!
//! ```text
//! command line, environment, defaults ─┐
//! MeshConfig (from the controller) ────┴─▶ settings in force, each with its origin
//! world ─▶ workloads, Services, policies, this node
//! ```
//!
//! Invariant: what is dumped is written down here, piece by piece: flags (of which none holds a secret: they name files) and
//! the world. Keys and tokens are in files and in the keyring, which nothing here reads.

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};
use mesh_model::{MeshSettings, World};
use mesh_telemetry::api::{ConfigDump, ServiceRow, SettingRow};
use serde_json::{Map, Value, json};

use super::{Admin, timestamp};
use crate::config::Cli;
use crate::settings::InForce;

#[cfg(test)]
mod tests;

/// Flags that a MeshConfig overlays, with its field for each.
const OVERLAID: [(&str, &str); 5] = [
    ("unknown_pods", "allow_unknown_pods"),
    ("pre_capture_sockets", "keep_pre_capture_sockets"),
    ("bootstrap_namespaces", "bootstrap_namespaces"),
    ("kubelet_port", "kubelet_port"),
    ("log_format", "log_format"),
];

/// All of it, now.
pub(super) fn dump(admin: &Admin) -> ConfigDump {
    let world = admin.world.load_full();
    let in_force = admin.settings.load_full();
    // As the process was started; it started, so they can be read.
    let matches = Cli::command().try_get_matches_from(std::env::args_os()).ok();
    let mut workloads: Vec<_> = world.workloads().map(|workload| (**workload).clone()).collect();
    workloads.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    let mut services: Vec<_> = world.services().map(|service| ServiceRow::from(&**service)).collect();
    services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    ConfigDump {
        as_of: timestamp(std::time::SystemTime::now()),
        version: env!("CARGO_PKG_VERSION").into(),
        node: admin.node.clone(),
        applied: admin.client.status().applied.map(|version| version.to_string()),
        complete: world.is_complete(),
        cached_seconds: admin.cached_age(),
        settings: settings(matches.as_ref(), &in_force, mesh_of(&world)),
        mesh: mesh_of(&world).cloned(),
        node_info: world.node(&admin.node).map(|info| (**info).clone()),
        workloads,
        services,
        policies: world.policies().map(|policy| (**policy).clone()).collect(),
    }
}

fn mesh_of(world: &World) -> Option<&MeshSettings> {
    world.mesh().map(|mesh| &**mesh)
}

/// The flags, each with where its value comes from, and then the MeshConfig's own settings.
fn settings(
    matches: Option<&ArgMatches>,
    in_force: &InForce,
    mesh: Option<&MeshSettings>,
) -> Vec<SettingRow> {
    let said = fields(mesh.map(|mesh| json!(mesh)).unwrap_or_default());
    let mut rows: Vec<SettingRow> = Vec::new();
    for arg in Cli::command().get_arguments() {
        let id = arg.get_id().as_str();
        let (Some(long), Some(matches)) = (arg.get_long(), matches) else { continue };
        if matches!(id, "help" | "version") {
            continue;
        }
        let from = match matches.try_contains_id(id).ok().and_then(|_| matches.value_source(id)) {
            Some(ValueSource::CommandLine) => format!("flag --{long}"),
            Some(ValueSource::EnvVariable) => match arg.get_env() {
                Some(variable) => format!("env {}", variable.to_string_lossy()),
                None => "env".into(),
            },
            _ => "default".into(),
        };
        let flag = written(matches, id, arg.get_value_delimiter().is_some());
        let field = OVERLAID.iter().find(|(flag, _)| *flag == id).map(|(_, field)| *field);
        let overlaid = field.and_then(|field| said.iter().find(|(name, _)| name == field));
        rows.push(match overlaid {
            Some((field, value)) => SettingRow {
                name: long.into(),
                value: as_flag(field, value),
                from: "MeshConfig".into(),
                otherwise: flag,
            },
            None => SettingRow { name: long.into(), value: flag, from, otherwise: Value::Null },
        });
    }
    let own = |(name, _): &(String, Value)| !OVERLAID.iter().any(|(_, field)| *field == *name);
    let defaults = defaults(in_force);
    for (name, value) in &defaults {
        if !said.iter().any(|(field, _)| field == name) {
            let (name, value) = (name.clone(), value.clone());
            rows.push(SettingRow { name, value, from: "default".into(), otherwise: Value::Null });
        }
    }
    rows.extend(said.into_iter().filter(own).map(|(name, value)| SettingRow {
        name,
        value,
        from: "MeshConfig".into(),
        otherwise: Value::Null,
    }));
    rows
}

/// A flag's value as it was written.
fn written(matches: &ArgMatches, id: &str, several: bool) -> Value {
    let raw = matches.try_get_raw(id).ok().flatten();
    let all: Vec<String> = raw.into_iter().flatten().map(|one| one.to_string_lossy().into_owned()).collect();
    match (several, all.as_slice()) {
        (true, all) => {
            json!(all.iter().flat_map(|one| one.split(',')).filter(|one| !one.is_empty()).collect::<Vec<_>>())
        }
        (false, []) => Value::Null,
        (false, all) => json!(all.join(",")),
    }
}

/// The MeshConfig's value in the words of the flag.
fn as_flag(field: &str, value: &Value) -> Value {
    match (field, value) {
        ("allow_unknown_pods", Value::Bool(allow)) => json!(if *allow { "allow" } else { "refuse" }),
        ("keep_pre_capture_sockets", Value::Bool(keep)) => json!(if *keep { "keep" } else { "reset" }),
        ("kubelet_port", port) => json!(port.to_string()),
        (_, value) => value.clone(),
    }
}

/// What a MeshConfig says, by dotted names; what it leaves out is not there.
fn fields(mesh: Value) -> Vec<(String, Value)> {
    fn add(prefix: &str, object: Map<String, Value>, into: &mut Vec<(String, Value)>) {
        for (key, value) in object {
            let name = format!("{prefix}{key}");
            match value {
                Value::Null => {}
                Value::Object(inner) => add(&format!("{name}."), inner, into),
                Value::Array(list) if list.is_empty() => {}
                Value::Bool(false) if key == "leaving" => {}
                value => into.push((name, value)),
            }
        }
    }
    let mut all = Vec::new();
    if let Value::Object(object) = mesh {
        add("", object, &mut all);
    }
    all
}

/// What is in force of the settings for which there is no flag.
fn defaults(in_force: &InForce) -> Vec<(String, Value)> {
    let rows = [
        ("keys_on_disk", json!(in_force.keys_on_disk)),
        ("metrics.profile", json!(in_force.metrics.profile)),
        ("metrics.max_series", json!(in_force.metrics.max_series)),
        ("access_log.mode", json!(in_force.access_log.mode)),
        ("access_log.format", json!(in_force.access_log.format.to_string())),
        ("access_log.sample", json!(in_force.access_log.sample)),
        ("access_log.namespaces", json!(in_force.access_log.namespaces)),
        ("access_log.min_duration_ms", json!(in_force.access_log.min_duration.as_millis())),
    ];
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}
