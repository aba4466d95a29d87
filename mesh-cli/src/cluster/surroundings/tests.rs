#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_telemetry::preflight::CheckStatus::{Fail, Pass, Warn};

use super::*;

#[test]
fn old_kernels_are_named() {
    let nodes = |releases: &[&str]| -> Vec<(String, String)> {
        releases.iter().enumerate().map(|(n, release)| (format!("n{n}"), (*release).into())).collect()
    };
    for (releases, status, words) in [
        (&["6.8.0-45-generic", "6.12.1+deb13-amd64"][..], Pass, "2 nodes"),
        (&["6.6.0", "5.15.0-1060-aws"][..], Warn, "n1 (5.15.0-1060-aws)"),
        (&["5.10.0", "6.1.0", "6.8.0"][..], Fail, "n0 (5.10.0)"),
        (&["4.18.0", "4.18.0", "4.18.0", "4.18.0", "4.18.0", "4.18.0"][..], Fail, "and 1 more"),
        (&["strange"][..], Pass, "1 node"),
    ] {
        let check = kernels_check(&nodes(releases));
        assert_eq!(check.status, status, "{check:?}");
        assert!(check.message.contains(words), "{check:?}");
    }
}

#[test]
fn clocks_may_differ_by_seconds() {
    let at = Timestamp::from_unix;
    for (theirs, status, words) in [
        (1000, Pass, "agree"),
        (1029, Pass, "agree"),
        (1030, Warn, "30s ahead of"),
        (400, Fail, "10m behind"),
    ] {
        let check = clock_check("the API server", at(theirs), at(1000));
        assert_eq!(check.status, status, "{theirs}: {check:?}");
        assert!(check.message.contains(words), "{check:?}");
        assert_eq!(check.remedy.is_some(), status != Pass);
    }
}

#[test]
fn what_cilium_takes_away_is_said() {
    assert_eq!(cilium_check(false, false, true).status, Pass);
    assert_eq!(cilium_check(true, true, true).status, Pass);
    let check = cilium_check(true, false, false);
    assert_eq!(check.status, Warn);
    assert!(
        check.message.contains("bpf-lb-sock-hostns-only") && check.message.contains("tunnel"),
        "{check:?}"
    );
}

#[test]
fn versions_that_differ_are_named() {
    let found = |controller: Option<&str>, agents: &[&str]| Versions {
        controller: controller.map(str::to_owned),
        agents: agents
            .iter()
            .enumerate()
            .map(|(n, version)| (format!("n{n}"), Some((*version).into())))
            .collect(),
    };
    assert_eq!(versions_check("1.0.0", &found(None, &[])).status, Pass);
    assert_eq!(versions_check("1.0.0", &found(Some("1.0.0"), &["1.0.0"])).status, Pass);
    let check = versions_check("1.0.0", &found(Some("1.1.0"), &["1.1.0", "1.0.0"]));
    assert!(check.status == Warn && check.message.contains("n1 (1.0.0)"), "{check:?}");
    let check = versions_check("1.0.0", &found(Some("1.1.0"), &["1.1.0"]));
    assert!(check.status == Warn && check.message.starts_with("meshctl 1.0.0"), "{check:?}");
}
