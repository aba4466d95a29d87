#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn only_a_failure_makes_a_report_not_ok() {
    assert!(Report::new(vec![]).ok);
    assert!(Report::new(vec![Check::pass("cgroup2", "mounted"), Check::warn("btf", "none", "upgrade")]).ok);
    assert!(!Report::new(vec![Check::fail("bpffs", "not mounted", "mount it")]).ok);
}

#[test]
fn the_json_has_the_keys_that_scripts_read() {
    let report: Report = [
        Check::pass("cgroup2", "mounted"),
        Check::fail("bpffs", "not mounted", "mount -t bpf bpf /sys/fs/bpf"),
    ]
    .into_iter()
    .collect();
    let json = serde_json::json!({
        "ok": false,
        "checks": [
            {"name": "cgroup2", "status": "pass", "message": "mounted", "remedy": null},
            {"name": "bpffs", "status": "fail", "message": "not mounted",
             "remedy": "mount -t bpf bpf /sys/fs/bpf"},
        ],
    });
    assert_eq!(serde_json::to_value(&report).unwrap(), json);
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}
