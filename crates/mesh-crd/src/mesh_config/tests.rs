//! What is written in a MeshConfig reaches the settings, or is named.
#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

fn config(yaml: &str) -> MeshConfig {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec:\n{yaml}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn what_is_written_reaches_the_settings() {
    let settings = config(
        "  excludedCIDRs: [10.1.2.3/8]\n  excludedPorts: [22, \"9000-9010\"]\n  unknownPods: allow\n  \
         preCaptureSockets: keep\n  keyCache: disk\n  kubeletPort: 10250\n  logFormat: json\n",
    )
    .settings()
    .unwrap();
    assert_eq!(settings.excluded_prefixes, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
    assert_eq!(settings.excluded_ports, [22..=22, 9000..=9010]);
    assert_eq!(settings.allow_unknown_pods, Some(true));
    assert_eq!(settings.keep_pre_capture_sockets, Some(true));
    assert_eq!(settings.keys_on_disk, Some(true));
    assert_eq!(settings.kubelet_port, Some(10250));
    assert_eq!(settings.log_format.as_deref(), Some("json"));
    assert!(!settings.leaving);
    assert_eq!(config("  {}\n").settings().unwrap(), MeshSettings::default());
}

#[test]
fn what_cannot_be_in_force_is_named() {
    for (yaml, named) in [
        ("  excludedCIDRs: [10.0.0.0]\n", "10.0.0.0"),
        ("  excludedPorts: [\"10-1\"]\n", "excludedPorts"),
        ("  certificateLifetime: 1s\n", "1m and 90d"),
        ("  certificateLifetime: soon\n", "certificateLifetime"),
        ("  trustDomain: Not A Domain\n", "trustDomain"),
        ("  kubeletPort: 0\n", "kubeletPort"),
    ] {
        let error = config(yaml).settings().unwrap_err();
        assert!(error.to_string().contains(named), "{yaml}: {error}");
    }
}
