//! Promise: a NetworkPolicy that would cut tunnels between captured pods is named: by an Event on it, by `meshctl check`, and by
//! `meshctl capture enable`, which changes nothing without `--force`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use std::process::{Command, Output};

use controllers::{Home, eventually, object, so};
use serde_json::{Value, json};

/// `meshctl` as somebody with the cluster's kubeconfig runs it, from where there is no agent.
fn meshctl(home: &Home, arguments: &[&str]) -> Output {
    let program = lab::binary("meshctl").unwrap();
    let mut command = Command::new(program);
    command.arg("--kubeconfig").arg(home.server.kubeconfig()).args(["--socket", "/nonexistent/agent.sock"]);
    command.args(arguments).env_remove("KUBECONFIG").env("NO_COLOR", "1");
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn policy(ports: Value) -> Value {
    let mut policy = object("networking.k8s.io/v1", "NetworkPolicy", "db-only-web");
    policy["metadata"]["namespace"] = "shop".into();
    policy["spec"] = json!({
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": ports}],
    });
    policy
}

fn label(home: &Home) -> Option<String> {
    let namespace = home.get(&object("v1", "Namespace", "shop")).unwrap();
    namespace["metadata"]["labels"]["weft.dev/capture"].as_str().map(str::to_owned)
}

fn network_policies(home: &Home) -> Value {
    let output = meshctl(home, &["check", "-o", "json"]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "network_policies");
    check.unwrap_or_else(|| panic!("no such check in {report}")).clone()
}

#[test]
fn a_policy_that_would_cut_tunnels_is_named_before_and_after_the_label() {
    let home = Home::start();
    home.pod("web", "one", "10.0.0.1", json!({"app": "web"}));
    home.pod("db", "one", "10.0.0.2", json!({"app": "db"}));
    home.apply(policy(json!([{"port": 5432}])));
    let controller = home.ready_controller("a");

    let refused = meshctl(&home, &["capture", "enable", "shop"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("shop/db-only-web"), "{}", said(&refused));
    assert_eq!(label(&home), None, "nothing was changed");

    let forced = meshctl(&home, &["capture", "enable", "shop", "--force"]);
    assert_eq!(forced.status.code(), Some(0), "{}", said(&forced));
    assert_eq!(label(&home).as_deref(), Some("enabled"));
    let check = network_policies(&home);
    assert_eq!(check["status"], "fail", "{check}");
    assert!(check["message"].as_str().unwrap().contains("shop/db-only-web"), "{check}");
    let event = || {
        let events = home.list("events.k8s.io/v1", "Event", "shop");
        events.into_iter().find(|event| event["reason"] == "CutsTunnels")
    };
    let event = eventually("the Event on the policy", || event().ok_or_else(|| controller.log()));
    assert_eq!(event["regarding"]["kind"], "NetworkPolicy");
    assert_eq!(event["regarding"]["name"], "db-only-web");
    assert!(event["note"].as_str().unwrap().contains("15008"), "{event}");

    // The remedy, as the documents have it.
    home.apply(policy(json!([{"port": 5432}, {"port": 15008}])));
    eventually("the check to pass", || {
        let check = network_policies(&home);
        so(check["status"] == "pass", check)
    });
    let disabled = meshctl(&home, &["capture", "disable", "shop"]);
    assert_eq!(disabled.status.code(), Some(0), "{}", said(&disabled));
    assert_eq!(label(&home), None);
}

#[test]
fn what_meshctl_cannot_label_is_said_and_a_cluster_that_is_gone_is_unreachable() {
    let home = Home::start();
    let missing = meshctl(&home, &["capture", "enable", "nobody"]);
    assert_eq!(missing.status.code(), Some(1), "{}", said(&missing));
    assert!(said(&missing).contains("nobody") && said(&missing).contains("not found"), "{}", said(&missing));
    let pod = meshctl(&home, &["capture", "disable", "shop/nobody"]);
    assert_eq!(pod.status.code(), Some(1), "{}", said(&pod));
    let usage = meshctl(&home, &["capture", "enable", "a/b/c"]);
    assert_eq!(usage.status.code(), Some(2), "{}", said(&usage));
    home.server.stop();
    let gone = meshctl(&home, &["--timeout", "5", "capture", "enable", "shop"]);
    assert_eq!(gone.status.code(), Some(3), "{}", said(&gone));
}
