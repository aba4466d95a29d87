#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::process::Command;

use super::*;

#[test]
fn every_caller_is_a_loop_that_a_shell_understands() {
    let services = Services::of_samples().unwrap();
    for call in calls(&services, Ipv4Addr::LOCALHOST).unwrap() {
        let script = again_and_again(&call.program, call.pause);
        let checked = Command::new("sh").args(["-n", "-c", &script]).output().unwrap();
        assert!(checked.status.success(), "{script}");
        assert!(call.pause.parse::<f64>().unwrap() > 0.0, "{script}");
        assert!(!script.contains('"'), "{script}");
    }
}

#[test]
fn the_policy_is_the_one_that_is_spoken_of() {
    let object: serde_json::Value = serde_saphyr::from_str(POLICY_FILE.1).unwrap();
    let metadata = &object["metadata"];
    let text = |key: &str| metadata[key].as_str().unwrap().to_owned();
    assert_eq!(format!("{}/{}", text("namespace"), text("name")), POLICY);
}
