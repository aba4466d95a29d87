#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_common::{Addr, PodEntry, PortKey, Verdict};
use serde_json::json;

use super::entries::{pod, port_range, prefix, verdict_word};
use super::*;

#[test]
fn every_pinned_map_has_a_purpose() {
    for name in maps::ALL {
        assert!(!purpose(name).is_empty(), "{name}");
    }
}

#[test]
fn a_node_without_pins_is_a_summary_with_errors() {
    let directory = tempfile::tempdir().unwrap();
    let summary = summary(directory.path());
    assert_eq!(summary.maps.len(), maps::ALL.len());
    assert!(summary.maps.iter().all(|map| map.error.is_some() && map.entries.is_none()));
    assert!(summary.programs.iter().all(|program| program.links == 0 && program.ids.is_empty()));
    let settings = summary.maps.iter().find(|map| map.name == "mesh_settings").unwrap();
    let path = directory.path().join("weft/maps/mesh_settings");
    assert_eq!(settings.bpftool, format!("bpftool map dump pinned {}", path.display()));
}

#[test]
fn addresses_prefixes_and_ports_are_written_for_people() {
    let entry = PodEntry {
        state: PodEntry::STATE_CAPTURED,
        reserved: 0,
        addr4: Addr::v4([10, 0, 0, 7]),
        addr6: Addr::NONE,
    };
    assert_eq!(pod(&entry), json!({"state": "captured", "addr4": "10.0.0.7", "addr6": null}));
    assert_eq!(prefix(Addr::v4([10, 0, 0, 0]), 104), "10.0.0.0/8");
    assert_eq!(prefix(Addr::v6([0; 16]), 0), "::/0");
    assert_eq!(port_range(PortKey::new(7, 8080), PortKey::BITS), json!({"set": 7, "ports": "8080"}));
    assert_eq!(port_range(PortKey::new(7, 8192), 36), json!({"set": 7, "ports": "8192-12287"}));
    assert_eq!(verdict_word(Verdict::DENY), "deny");
}
