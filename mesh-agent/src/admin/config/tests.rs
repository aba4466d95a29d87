#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use clap::FromArgMatches;

use super::*;

fn rows(line: &[&str], mesh: Option<&MeshSettings>) -> Vec<SettingRow> {
    let matches = Cli::command().try_get_matches_from(line).unwrap();
    let cli = Cli::from_arg_matches(&matches).unwrap();
    settings(Some(&matches), &InForce::of(&cli.run), mesh)
}

fn row<'a>(rows: &'a [SettingRow], name: &str) -> &'a SettingRow {
    rows.iter().find(|row| row.name == name).unwrap_or_else(|| panic!("no {name} in {rows:#?}"))
}

#[test]
fn every_setting_says_where_it_comes_from() {
    let line = ["mesh-agent", "--node", "a", "--kubelet-port", "10999", "--bootstrap-namespaces", "x,y"];
    let settings = rows(&line, None);
    let port = row(&settings, "kubelet-port");
    assert_eq!((&port.value, port.from.as_str()), (&json!("10999"), "flag --kubelet-port"));
    assert_eq!(row(&settings, "bootstrap-namespaces").value, json!(["x", "y"]));
    assert_eq!(row(&settings, "log-format").from, "default");
    assert_eq!(row(&settings, "metrics.profile").value, json!("workload"));
    assert!(settings.iter().all(|row| !matches!(row.name.as_str(), "help" | "version")));
}

#[test]
fn a_mesh_config_overlays_a_flag_and_says_so() {
    let mesh = MeshSettings {
        allow_unknown_pods: Some(true),
        kubelet_port: Some(10_251),
        keys_on_disk: Some(true),
        ..MeshSettings::default()
    };
    let settings = rows(&["mesh-agent", "--node", "a", "--kubelet-port", "10999"], Some(&mesh));
    let port = row(&settings, "kubelet-port");
    assert_eq!(
        (&port.value, port.from.as_str(), &port.otherwise),
        (&json!("10251"), "MeshConfig", &json!("10999"))
    );
    assert_eq!(row(&settings, "unknown-pods").value, json!("allow"));
    assert_eq!(settings.iter().filter(|row| row.name == "keys_on_disk").count(), 1);
    assert_eq!(row(&settings, "keys_on_disk").from, "MeshConfig");
}
