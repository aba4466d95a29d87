//! Promise: what is so in the Kubernetes API is so at the agents; and what the API server does not say, does not happen.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use std::time::Duration;

use controllers::{Home, eventually, namespace, pod, service, slice, so};
use kube_tests::Options;
use mesh_model::{Phase, Uid};
use serde_json::{Value, json};

const ENABLED: &str = "enabled";

fn label(home: &Home, object: &Value, word: Value) {
    home.merge(object, json!({"metadata": {"labels": {"weft.dev/capture": word}}}));
}

#[test]
fn labels_on_namespace_and_pod_reach_an_agent_and_a_pods_own_word_wins() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({}));
    let db = home.pod("db", "two", "10.0.0.2", json!({"weft.dev/capture": "disabled"}));
    let controller = home.ready_controller("a");
    let agent = home.agent("one", &controller);
    agent.is_whole();
    agent.is_enrolled(&web, false);
    label(&home, &namespace("shop"), json!(ENABLED));
    agent.is_enrolled(&web, true);
    agent.is_enrolled(&db, false);
    label(&home, &pod("db", "two", "10.0.0.2", json!({})), json!(ENABLED));
    agent.is_enrolled(&db, true);
    label(&home, &namespace("shop"), Value::Null);
    agent.is_enrolled(&web, false);
    agent.is_enrolled(&db, true);
    label(&home, &pod("db", "two", "10.0.0.2", json!({})), Value::Null);
    agent.is_enrolled(&db, false);
    let web_of = agent.workload(&web).unwrap();
    assert_eq!(
        (&*web_of.node, web_of.identity.to_string()),
        ("one", "spiffe://cluster.local/ns/shop/sa/web".into())
    );
}

#[test]
fn services_slices_nodes_and_ends_of_pods_reach_an_agent() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({}));
    let controller = home.ready_controller("a");
    let agent = home.agent("one", &controller);
    agent.is_whole();
    let known = || controller.metric("weft_controller_objects{kind=\"Service\"}");
    let before = known().unwrap();
    home.apply(service("web", "10.96.0.10"));
    eventually("the Service to be counted", || so(known() == Some(before + 1.0), known()));
    home.apply(slice("web", "web-1", &["10.0.0.1"]));
    eventually("the endpoint", || so(agent.endpoints("web") == ["10.0.0.1"], agent.endpoints("web")));
    home.apply(slice("web", "web-1", &["10.0.0.1", "10.0.0.2"]));
    eventually("both endpoints", || so(agent.endpoints("web").len() == 2, agent.endpoints("web")));
    home.delete(&slice("web", "web-1", &[]));
    eventually("no endpoint", || so(agent.endpoints("web").is_empty(), agent.endpoints("web")));
    home.delete(&service("web", ""));
    eventually("no service", || so(agent.service("web").is_none(), agent.service("web")));
    eventually("the Service to be counted no more", || so(known() == Some(before), known()));
    let zone = |agent: &controllers::Agent| agent.world().node("one").and_then(|node| node.zone.clone());
    eventually("the node's zone", || so(zone(&agent).as_deref() == Some("zone-one"), zone(&agent)));
    assert!(agent.world().node("two").is_none(), "of other nodes it hears nothing");
    let mut ended = pod("web", "one", "10.0.0.1", json!({}));
    ended["status"]["phase"] = "Succeeded".into();
    home.apply(ended.clone());
    eventually("the pod to be finished", || {
        let workload = agent.workload(&web);
        so(workload.as_ref().is_some_and(|w| w.phase == Phase::Finished && w.addresses.is_empty()), workload)
    });
    home.delete(&ended);
    eventually("the pod to be gone", || so(agent.workload(&web).is_none(), agent.workload(&web)));
}

#[test]
fn a_restarted_controller_and_a_restarted_api_server_take_nothing_from_an_agent() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": ENABLED}));
    let controller = home.ready_controller("a");
    let agent = home.agent("two", &controller);
    agent.is_enrolled(&web, true);
    if home.server.is_ours() {
        home.server.stop();
        let ready = controller.readiness().unwrap();
        assert!(ready.contains("\"ready\":true"), "the API server's absence changes nothing: {ready}");
        // An agent that comes now is served from what is known.
        let other = home.agent("one", &controller);
        other.is_enrolled(&web, true);
        home.server.start_again().unwrap();
        let late = home.pod("late", "one", "10.0.0.9", json!({"weft.dev/capture": ENABLED}));
        agent.is_enrolled(&late, true);
        other.is_enrolled(&late, true);
    }
    // The controller is away, the world changes, another controller comes at another port.
    controller.stop();
    let next = home.pod("next", "one", "10.0.0.3", json!({"weft.dev/capture": ENABLED}));
    let controller = home.ready_controller("a");
    let third = home.agent("one", &controller);
    third.is_enrolled(&next, true);
    assert!(!agent.removed().contains(&Uid::new(&web)), "nothing seemed to be gone");
}

#[test]
fn an_expired_watch_is_listed_anew_and_nothing_seems_to_be_gone_in_between() {
    let options = Options { compaction: Some(Duration::from_millis(500)) };
    let home = Home::with(options, true);
    if !home.server.is_ours() {
        return lab::row::skip("an_expired_watch_is_listed_anew", "all", "not ours to compact");
    }
    let stays = home.pod("stays", "one", "10.0.0.1", json!({"weft.dev/capture": ENABLED}));
    let goes = home.pod("goes", "one", "10.0.0.2", json!({"weft.dev/capture": ENABLED}));
    let controller = home.ready_controller("a");
    let agent = home.agent("two", &controller);
    agent.is_enrolled(&stays, true);
    agent.is_enrolled(&goes, true);
    // The history of what happens while nobody watches is compacted away before anybody asks for it.
    for round in 0..3 {
        home.server.stop();
        home.server.start_again().unwrap();
        let name = format!("round-{round}");
        let new = home.pod(&name, "one", &format!("10.0.1.{round}"), json!({"weft.dev/capture": ENABLED}));
        agent.is_enrolled(&new, true);
    }
    home.delete(&pod("goes", "one", "", json!({})));
    eventually("the pod to be gone", || so(agent.workload(&goes).is_none(), agent.workload(&goes)));
    assert!(!agent.removed().contains(&Uid::new(&stays)), "it seemed to be gone");
    let restarts = controller.metric("weft_controller_watch_restarts_total{kind=\"Pod\"}");
    assert!(restarts.is_some_and(|restarts| restarts > 0.0), "{restarts:?}");
    let errors = ["list", "watch"].map(|verb| {
        let series = format!("weft_controller_api_errors_total{{verb=\"{verb}\",resource=\"pods\"}}");
        controller.metric(&series).unwrap_or_default()
    });
    assert!(errors.iter().sum::<f64>() > 0.0, "{errors:?}");
}

#[test]
fn a_malformed_object_is_one_problem_and_its_last_good_state_stays() {
    let home = Home::start();
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": ENABLED}));
    let controller = home.ready_controller("a");
    let agent = home.agent("two", &controller);
    agent.is_enrolled(&web, true);
    let object = pod("web", "one", "10.0.0.1", json!({}));
    let written = || controller.metric("weft_controller_events_total{outcome=\"written\"}");
    let before = written().unwrap();
    label(&home, &object, json!("yes-please"));
    let errors = || controller.metric("weft_controller_config_errors");
    eventually("the problem to be counted", || so(errors() == Some(1.0), errors()));
    // Others go on meanwhile, and it stays as it was.
    let other = home.pod("other", "one", "10.0.0.2", json!({"weft.dev/capture": ENABLED}));
    agent.is_enrolled(&other, true);
    assert!(agent.workload(&web).unwrap().enrolled);
    let event = eventually("an Event on the pod", || {
        let events = home.list("events.k8s.io/v1", "Event", "shop");
        let mut of_web = events.iter().filter(|event| event["regarding"]["name"] == "web");
        of_web.next().cloned().ok_or_else(|| format!("{events:?}"))
    });
    assert_eq!((&event["reason"], &event["type"]), (&json!("Malformed"), &json!("Warning")));
    eventually("the Event to be counted", || so(written() > Some(before), written()));
    assert_eq!(event["regarding"]["uid"], json!(web));
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("yes-please") && note.contains("\"enabled\""), "{note}");
    let said = controller.log().lines().filter(|line| line.contains("yes-please")).count();
    assert_eq!(said, 1, "{}", controller.log());
    label(&home, &object, json!("disabled"));
    agent.is_enrolled(&web, false);
    eventually("no problem", || so(errors() == Some(0.0), errors()));
}

#[test]
fn a_labelled_pod_that_is_left_alone_has_an_event_that_says_why() {
    let home = Home::start();
    let mut host = pod("host", "one", "192.0.2.1", json!({"weft.dev/capture": ENABLED}));
    host["spec"]["hostNetwork"] = true.into();
    home.apply(host);
    let _controller = home.ready_controller("a");
    let event = eventually("an Event on the pod", || {
        let events = home.list("events.k8s.io/v1", "Event", "shop");
        events
            .iter()
            .find(|event| event["reason"] == "NotCaptured")
            .cloned()
            .ok_or_else(|| format!("{events:?}"))
    });
    assert_eq!(event["regarding"]["name"], "host");
    assert!(event["note"].as_str().unwrap().contains("host_network"), "{event}");
}

#[test]
fn missing_definitions_are_one_line_with_the_remedy_and_are_waited_for() {
    let home = Home::with(Options::default(), false);
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": ENABLED}));
    let controller = home.controller("a");
    eventually("the readiness to say what is missing", || {
        let ready = controller.readiness().unwrap_or_default();
        so(ready.contains("meshconfigs.weft.dev") && ready.contains("CustomResourceDefinitions"), ready)
    });
    home.definitions();
    controller.is_ready();
    let agent = home.agent("one", &controller);
    agent.is_enrolled(&web, true);
    let log = controller.log();
    let said = log
        .lines()
        .filter(|line| line.contains("meshconfigs.weft.dev") && line.contains("CustomResourceDefinitions"))
        .count();
    assert_eq!(said, 1, "{log}");
}

#[test]
fn what_the_controller_may_not_do_is_one_line_that_names_the_verb_and_it_goes_on_when_it_may() {
    let home = Home::start();
    if !home.server.is_ours() {
        return lab::row::skip("what_the_controller_may_not_do", "all", "not ours to make users in");
    }
    let web = home.pod("web", "one", "10.0.0.1", json!({"weft.dev/capture": ENABLED}));
    home.apply(json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "narrow", "namespace": controllers::SYSTEM},
    }));
    let role = |resources: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "narrow"},
            "rules": [
                {"apiGroups": [""], "resources": resources, "verbs": ["list", "watch"]},
                {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get", "list", "watch", "create", "patch", "update"]},
                {"apiGroups": ["discovery.k8s.io", "node.k8s.io", "networking.k8s.io"], "resources": ["endpointslices", "runtimeclasses", "networkpolicies"], "verbs": ["list", "watch"]},
                {"apiGroups": ["weft.dev"], "resources": ["authorizationpolicies", "meshconfigs", "nodestates", "authorizationpolicies/status", "meshconfigs/status", "nodestates/status"], "verbs": ["get", "list", "watch", "create", "delete", "patch"]},
                {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["list", "watch", "create", "delete", "patch"]},
            ],
        })
    };
    home.apply(role(json!(["namespaces", "services", "nodes", "serviceaccounts"])));
    home.apply(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "narrow"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "narrow"},
        "subjects": [{"kind": "ServiceAccount", "name": "narrow", "namespace": controllers::SYSTEM}],
    }));
    let token =
        home.server.kubectl(&["create", "token", "narrow", "--namespace", controllers::SYSTEM]).unwrap();
    home.private("narrow-token", token.trim());
    let kubeconfig = home.server.kubeconfig_for("narrow", &home.path("narrow-token")).unwrap();
    let controller = home.controller_as("a", &kubeconfig);
    eventually("the log to name the permission", || {
        let log = controller.log();
        so(log.contains("may not list pods"), log)
    });
    let ready = controller.readiness().unwrap();
    assert!(ready.contains("\"ready\":false") && ready.contains("Pod"), "{ready}");
    home.apply(role(json!(["namespaces", "services", "nodes", "serviceaccounts", "pods"])));
    controller.is_ready();
    let agent = home.agent("one", &controller);
    agent.is_enrolled(&web, true);
    let said = controller.log().lines().filter(|line| line.contains("may not list pods")).count();
    assert_eq!(said, 1, "{}", controller.log());
}
