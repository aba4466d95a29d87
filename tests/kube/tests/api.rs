//! The API server that the suite runs on, so that a failure of it is not looked for elsewhere: it keeps its data over a
//! restart, binds tokens to pods and nodes, holds everyone to RBAC, and writes down who asked for what.
#![allow(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube_tests::{ApiServer, block_on};

#[test]
fn what_was_said_before_a_restart_stays() {
    let server = ApiServer::start().unwrap();
    if !server.is_ours() {
        return lab::row::skip("what_was_said_before_a_restart_stays", "all", "not ours to restart");
    }
    server.kubectl(&["create", "configmap", "note", "--from-literal=key=value"]).unwrap();
    server.restart().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(server.client().unwrap(), "default");
    let note = block_on(maps.get("note")).unwrap();
    assert_eq!(note.data.unwrap()["key"], "value");
    let asked = server.audit().unwrap();
    let created = |asked: &&kube_tests::Request| asked.verb == "create" && asked.resource == "configmaps";
    assert_eq!(asked.iter().filter(created).find(|asked| asked.name == "note").unwrap().code, 201);
}

#[test]
fn a_pod_with_a_node_stays_until_its_kubelet_lets_it_go() {
    let server = ApiServer::start().unwrap();
    let pods: Api<Pod> = Api::namespaced(server.client().unwrap(), "default");
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "a", "containers": [{"name": "main", "image": "none"}]},
    }))
    .unwrap();
    block_on(pods.create(&PostParams::default(), &pod)).unwrap();
    block_on(pods.delete("web", &DeleteParams::default())).unwrap();
    let there = block_on(pods.get("web")).unwrap();
    assert!(there.metadata.deletion_timestamp.is_some());
    block_on(pods.delete("web", &DeleteParams::default().grace_period(0))).unwrap();
    assert!(block_on(pods.get_opt("web")).unwrap().is_none());
}
