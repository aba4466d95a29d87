//! Promise: the MeshConfig says whether it is in force, and why not; what of it concerns the controller is followed live.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use mesh_model::AccessLogMode;

use controllers::{Home, eventually, mesh_config, object, so};
use serde_json::{Value, json};

fn is_accepted(home: &Home, status: &str, parts: &[&str]) {
    eventually(&format!("Accepted to be {status}"), || {
        let (is, reason, message) = home.accepted();
        let said = format!("{reason}: {message}");
        so(is == status && parts.iter().all(|part| said.contains(part)), (is, said))
    });
}

#[test]
fn the_condition_follows_the_spec_and_the_last_good_one_stays_in_force() {
    let home = Home::start();
    home.apply(mesh_config(json!({"kubeletPort": 10250, "certificateLifetime": "2h"})));
    let controller = home.ready_controller("a");
    let agent = home.agent("one", &controller);
    is_accepted(&home, "True", &["InForce"]);
    let port = || agent.world().mesh().and_then(|mesh| mesh.kubelet_port);
    eventually("the settings", || so(port() == Some(10_250), port()));
    let lifetimes = |log: &str| log.matches("lifetime").count();
    let before = lifetimes(&controller.log());
    home.apply(mesh_config(json!({"kubeletPort": 10251, "certificateLifetime": "5m", "logFormat": "json"})));
    eventually("the new settings", || so(port() == Some(10_251), port()));
    eventually("the new lifetime", || so(lifetimes(&controller.log()) > before, controller.log()));
    home.apply(mesh_config(json!({"kubeletPort": 10251, "certificateLifetime": "5m", "logFormat": "json",
        "metrics": {"profile": "full", "maxSeries": 5000}, "accessLog": {"mode": "All", "sample": 0.5}})));
    let watched = || agent.world().mesh().map(|mesh| (mesh.metrics.max_series, mesh.access_log.mode));
    eventually("what is counted and written", || {
        so(watched() == Some((Some(5000), Some(AccessLogMode::All))), watched())
    });
    let in_json = |log: &str| log.lines().any(|line| serde_json::from_str::<Value>(line).is_ok());
    eventually("lines in the new form", || so(in_json(&controller.log()), controller.log()));
    let config = home.get(&mesh_config(json!({}))).unwrap();
    let generation = &config["metadata"]["generation"];
    eventually("the condition to be of this generation", || {
        let config = home.get(&mesh_config(json!({}))).unwrap();
        let seen = (
            &config["status"]["observedGeneration"],
            &config["status"]["conditions"][0]["observedGeneration"],
        );
        so(seen == (generation, generation), seen)
    });
    // What a schema may let pass all the same.
    let wrong = mesh_config(json!({"kubeletPort": 10252, "excludedCIDRs": ["10.0.0.0/99"]}));
    if home.try_apply(wrong).is_ok() {
        is_accepted(&home, "False", &["Invalid", "10.0.0.0/99", "10.0.0.0/8", "last accepted"]);
        assert_eq!(port(), Some(10_251));
        home.apply(mesh_config(json!({"kubeletPort": 10253, "excludedCIDRs": ["10.0.0.0/8"]})));
        is_accepted(&home, "True", &["InForce"]);
        eventually("the settings", || so(port() == Some(10_253), port()));
    }
    home.delete(&mesh_config(json!({})));
    eventually("no settings", || so(agent.world().mesh().is_none(), agent.world().mesh()));
}

#[test]
fn the_trust_domain_is_taken_at_the_start_and_a_change_is_said_to_be_none() {
    let home = Home::start();
    home.apply(mesh_config(json!({"trustDomain": "first.example"})));
    let web = home.pod("web", "one", "10.0.0.1", json!({}));
    let controller = home.ready_controller("a");
    let agent = home.agent("one", &controller);
    agent.is_enrolled(&web, false);
    let identity = agent.workload(&web).unwrap().identity.to_string();
    assert_eq!(identity, "spiffe://first.example/ns/shop/sa/web");
    is_accepted(&home, "True", &["InForce"]);
    // A schema may refuse it outright.
    let changed = mesh_config(json!({"trustDomain": "second.example", "kubeletPort": 10_999}));
    if home.try_apply(changed).is_ok() {
        is_accepted(&home, "False", &["TrustDomainChanged", "first.example", "second.example"]);
    }
}

#[test]
fn a_mesh_config_of_another_name_says_that_it_does_not_count() {
    let home = Home::start();
    let controller = home.ready_controller("a");
    let mut other = mesh_config(json!({"kubeletPort": 1}));
    other["metadata"]["name"] = "other".into();
    if home.try_apply(other).is_err() {
        return;
    }
    let other = object("weft.dev/v1alpha1", "MeshConfig", "other");
    let condition = |config: &Value| config["status"]["conditions"][0].clone();
    let said = eventually("the condition", || {
        let said = condition(&home.get(&other).unwrap());
        if said["status"] == "False" { Ok(said) } else { Err(said.to_string()) }
    });
    assert!(said["message"].as_str().unwrap().contains("\"default\""), "{said}");
    let errors = || controller.metric("weft_controller_config_errors");
    eventually("it to be counted", || so(errors() == Some(1.0), errors()));
}
