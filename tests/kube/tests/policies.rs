//! Promise: an AuthorizationPolicy says whether it is accepted, where it is not applied yet, and what in it is probably not meant;
//! what is refused is refused with words that help, and what was in force stays in force.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use controllers::{Home, eventually, object, so};
use kube_tests::traffic::{Traffic, once};
use kube_tests::{ApiServer, Cluster};
use lab::row::Table;
use mesh_model::policy::PolicyKey;
use serde_json::{Value, json};

fn policy(name: &str, spec: Value) -> Value {
    let mut value = object("weft.dev/v1alpha1", "AuthorizationPolicy", name);
    value["metadata"]["namespace"] = "shop".into();
    value["spec"] = spec;
    value
}

fn web() -> Value {
    json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}])
}

/// What a policy's status says: type, status, reason and message of each condition, and the generation that they are about.
fn said(home: &Home, name: &str) -> Vec<(String, String, String, String, i64)> {
    let object = home.get(&policy(name, json!({}))).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.map(|one| {
        let generation = one["observedGeneration"].as_i64().unwrap_or_default();
        (text(&one["type"]), text(&one["status"]), text(&one["reason"]), text(&one["message"]), generation)
    })
    .collect()
}

fn says(home: &Home, name: &str, kind: &str, status: &str, words: &[&str]) {
    eventually(&format!("{name}: {kind} to be {status}, {words:?}"), || {
        let all = said(home, name);
        let fits = all.iter().any(|(is, value, reason, message, _)| {
            let text = format!("{reason}: {message}");
            is == kind && value == status && words.iter().all(|word| text.contains(word))
        });
        so(fits, all)
    });
}

#[test]
fn each_mistake_is_refused_by_the_api_server_with_words_that_help() {
    let server = ApiServer::start().unwrap();
    let chart = ["install", "weft-crds", "deploy/charts/mesh-crds", "--namespace", "weft-system"];
    server.helm(&[&chart[..], &["--create-namespace"]].concat()).unwrap();
    server.kubectl(&["create", "namespace", "shop"]).unwrap();
    lab::eventually(Duration::from_secs(60), || {
        server.kubectl(&["get", "authorizationpolicies"]).map_err(|error| format!("{error:#}"))
    })
    .unwrap();
    let create = |spec: &Value| {
        let value = policy("one", spec.clone());
        let path = server.directory().join("policy.json");
        std::fs::write(&path, value.to_string()).unwrap();
        let path = path.to_str().unwrap();
        server.kubectl(&["create", "--dry-run=server", "--validate=strict", "--filename", path])
    };
    let rules = |rules: Value| json!({"targetRefs": web(), "action": "ALLOW", "rules": rules});
    let source = |source: Value| rules(json!([{"sources": [source]}]));
    let ports = |ports: Value| rules(json!([{"networkAttributes": {"ports": ports}}]));
    let target = |target: Value| json!({"targetRefs": [target], "action": "DENY"});
    let many = |count: usize| (0..count).map(|n| json!({"namespace": format!("n{n}")})).collect::<Vec<_>>();
    let mut table = Table::new("each_mistake_is_refused_by_the_api_server_with_words_that_help");
    for (mistake, spec, words) in [
        ("no target", json!({"action": "ALLOW"}), &["spec.targetRefs"][..]),
        ("an empty list of targets", json!({"targetRefs": [], "action": "ALLOW"}), &["spec.targetRefs"]),
        ("no action", json!({"targetRefs": web()}), &["spec.action"]),
        (
            "an action that is none",
            json!({"targetRefs": web(), "action": "AUDIT"}),
            &["spec.action", "ALLOW"],
        ),
        (
            "a mode that is none",
            json!({"targetRefs": web(), "action": "DENY", "mode": "DryRun"}),
            &["spec.mode", "Audit"],
        ),
        ("an unknown field", rules(json!([{"source": []}])), &["spec.rules[0].source", "unknown field"]),
        ("a Pod by name", target(json!({"kind": "Pod", "name": "web"})), &["selected by labels"]),
        ("a Service without a name", target(json!({"kind": "Service"})), &["name the Service"]),
        (
            "a kind that is none",
            target(json!({"kind": "Gateway", "name": "a"})),
            &["spec.targetRefs[0].kind"],
        ),
        (
            "a group",
            target(json!({"group": "gateway.networking.k8s.io", "kind": "Service", "name": "a"})),
            &["spec.targetRefs[0].group"],
        ),
        ("a source that says nothing", source(json!({})), &["leave sources out for anybody"]),
        (
            "a SPIFFE ID without scheme",
            source(json!({"spiffe": "cluster.local/ns/a"})),
            &["spiffe", "should match"],
        ),
        (
            "an address for a CIDR",
            source(json!({"ipBlock": {"cidr": "10.0.0.1"}})),
            &["spec.rules[0].sources[0].ipBlock.cidr", "should match"],
        ),
        ("a negation of nothing", source(json!({"not": [{}]})), &["spec.rules[0].sources[0].not[0]"]),
        ("port 0", ports(json!([0])), &["ports[0]", "greater than or equal to 1"]),
        ("a range of words", ports(json!(["http"])), &["ports[0]", "should match"]),
        ("an empty list of ports", ports(json!([])), &["networkAttributes.ports"]),
        ("65 sources", rules(json!([{"sources": many(65)}])), &["spec.rules[0].sources", "at most 64"]),
    ] {
        table.row(mistake, || match create(&spec) {
            Ok(_) => bail!("accepted"),
            Err(error) => {
                let text = format!("{error:#}");
                match words.iter().find(|word| !text.contains(**word)) {
                    Some(word) => bail!("does not say {word:?}: {text}"),
                    None => Ok(text),
                }
            }
        });
    }
    for (fine, spec) in [
        ("no rules", json!({"targetRefs": web(), "action": "ALLOW"})),
        ("64 sources", rules(json!([{"sources": many(64)}]))),
        ("an empty list of sources", rules(json!([{"sources": []}]))),
        ("numbers and ranges", ports(json!([1, 65535, "1-65535", "443"]))),
        ("a service account by star", source(json!({"serviceAccount": {"name": "*", "namespace": "bank"}}))),
    ] {
        table.row(fine, || create(&spec));
    }
    table.row("a megabyte", || {
        let long = "x".repeat(1000);
        let rule = json!({"httpAttributes": {"paths": vec![long; 64]}});
        match create(&rules(json!(vec![rule; 64]))) {
            Ok(_) => bail!("accepted"),
            Err(error) => Ok(format!("{error:#}").chars().take(200).collect()),
        }
    });
    table.finish();
}

#[test]
fn the_conditions_follow_the_policy_and_the_last_accepted_one_stays_in_force() {
    let home = Home::start();
    let pod = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": "enabled", "app": "web"}));
    let controller = home.ready_controller("a");
    let agent = home.agent("one", &controller);
    agent.is_enrolled(&pod, true);
    agent.captured(&pod);
    let spec = |cidr: &str| {
        json!({
            "targetRefs": web(), "action": "DENY", "rules": [{"sources": [{"ipBlock": {"cidr": cidr}}]}],
        })
    };
    home.apply(policy("fence", spec("10.9.0.0/16")));
    says(&home, "fence", "Accepted", "True", &["about 1 pod"]);
    says(&home, "fence", "Enforced", "True", &["Enforced"]);
    let object = home.get(&policy("fence", json!({}))).unwrap();
    let generation = object["metadata"]["generation"].as_i64().unwrap();
    assert!(said(&home, "fence").iter().all(|(.., of)| *of == generation), "{:?}", said(&home, "fence"));
    let key = PolicyKey::new("shop", "fence");
    let known = || agent.world().policy(&key).map(|policy| format!("{:?}", policy.rules));
    assert!(known().unwrap().contains("10.9.0.0/16"));

    // What the pattern lets pass: the controller reads it once more.
    home.apply(policy("fence", spec("10.9.0.0/99")));
    let field = "spec.rules[0].sources[0].ipBlock.cidr";
    says(&home, "fence", "Accepted", "False", &["Invalid", field, "10.9.0.0/99", "stays in force"]);
    assert!(known().unwrap().contains("10.9.0.0/16"));
    home.apply(policy("fence", spec("10.8.0.0/16")));
    says(&home, "fence", "Accepted", "True", &["about 1 pod"]);
    eventually("the new rule", || so(known().unwrap_or_default().contains("10.8.0.0/16"), known()));

    // An agent that does not listen.
    agent.deaf(true);
    home.apply(policy("fence", spec("10.7.0.0/16")));
    says(&home, "fence", "Enforced", "False", &["NodesPending", "one"]);
    agent.deaf(false);
    says(&home, "fence", "Enforced", "True", &["Enforced"]);

    home.apply(policy(
        "nowhere",
        json!({
            "targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "wbe"}}}], "action": "ALLOW",
            "rules": [{"sources": [{"namespace": "shpo"}]}],
        }),
    ));
    says(&home, "nowhere", "Enforced", "True", &["NoPods"]);
    says(&home, "nowhere", "Warning", "True", &["shpo"]);
    home.apply(policy("layer7", json!({
        "targetRefs": web(), "action": "ALLOW", "mode": "Audit", "rules": [{"httpAttributes": {"methods": ["GET"]}}],
    })));
    says(&home, "layer7", "Enforced", "True", &["Audited"]);
    says(&home, "layer7", "Warning", "True", &["waypoint"]);
    home.delete(&policy("fence", json!({})));
    eventually("the policy to be gone", || so(known().is_none(), known()));
}

#[test]
fn people_put_a_policy_in_force_and_wait_for_it() {
    if !kube_tests::ready("people_put_a_policy_in_force_and_wait_for_it") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        cluster.namespace("shop").captured()?;
        let pod = cluster.pod("shop/web").node("b").label("app", "web").start()?;
        let client = cluster.pod("shop/client").node("a").start()?;
        cluster.await_captured(&pod)?;
        cluster.await_captured(&client)?;
        cluster.await_peers_tunnel(&pod)?;
        let server = Traffic::start(&pod, 8080, &[])?;
        let to = (pod.v4(), 8080).into();
        lab::eventually(Duration::from_secs(20), || once(&client, to).map_err(|error| format!("{error:#}")))?;
        let policy = policy("nobody", json!({"targetRefs": web(), "action": "ALLOW"}));
        cluster.objects().apply(&policy)?;
        let meshctl = |arguments: &[&str]| {
            let mut command = Command::new(lab::binary("meshctl")?);
            command.args(arguments).env("KUBECONFIG", cluster.api().kubeconfig());
            let output = command.output().context("meshctl")?;
            let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
            anyhow::Ok((output.status.success(), text))
        };
        let (waited, text) = meshctl(&["policy", "wait", "shop/nobody", "--timeout", "20"])?;
        ensure!(waited, "{text}");
        ensure!(once(&client, to).is_err(), "still admitted");
        let columns = cluster.api().kubectl(&["get", "authorizationpolicies", "--all-namespaces"])?;
        ensure!(columns.contains("nobody") && columns.contains("True"), "{columns}");
        cluster.api().kubectl(&["delete", "authorizationpolicy", "nobody", "--namespace", "shop"])?;
        lab::eventually(Duration::from_secs(20), || once(&client, to).map_err(|error| format!("{error:#}")))?;
        server.stop().map(drop)
    });
}
