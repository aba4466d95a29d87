//! Promise: `mesh-controller uninstall` has every node let go, waits for that, and names the nodes that did not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use controllers::{Home, eventually, mesh_config, so};
use serde_json::json;

fn uninstall(home: &Home, timeout: &str) -> Command {
    uninstall_of(&home.server.kubeconfig(), timeout)
}

fn uninstall_of(kubeconfig: &Path, timeout: &str) -> Command {
    let mut command = Command::new(lab::binary("mesh-controller").unwrap());
    command.arg("uninstall").arg(format!("--timeout={timeout}"));
    command.arg(format!("--kubeconfig={}", kubeconfig.display()));
    command.env_remove("RUST_LOG").env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn it_waits_until_every_node_with_an_agent_has_let_go() {
    let home = Home::start();
    home.apply(mesh_config(json!({"kubeletPort": 10250})));
    let controller = home.ready_controller("a");
    let agents = ["one", "two"].map(|node| home.agent(node, &controller));
    for (agent, node) in agents.iter().zip(["one", "two"]) {
        agent.is_whole();
        eventually("the NodeState", || so(home.node_state(node)["replica"] == "a", home.node_state(node)));
    }
    let running = uninstall(&home, "60s").spawn().unwrap();
    for agent in &agents {
        eventually("the agent to be told", || {
            let mesh = agent.world().mesh().cloned();
            so(mesh.as_ref().is_some_and(|mesh| mesh.leaving && mesh.kubelet_port == Some(10_250)), mesh)
        });
    }
    agents[0].client.left();
    eventually("the first node", || so(home.node_state("one")["left"] == true, home.node_state("one")));
    agents[1].client.left();
    let output = running.wait_with_output().unwrap();
    assert!(output.status.success() && said(&output).contains("2 nodes"), "{}", said(&output));
}

#[test]
fn it_names_the_nodes_that_did_not_and_fails() {
    let home = Home::start();
    let controller = home.ready_controller("a");
    let (one, two) = (home.agent("one", &controller), home.agent("two", &controller));
    one.is_whole();
    two.is_whole();
    eventually("the NodeState", || so(home.node_state("two")["replica"] == "a", home.node_state("two")));
    // Dead, with its pods captured.
    drop(two);
    one.client.left();
    eventually("the first node", || so(home.node_state("one")["left"] == true, home.node_state("one")));
    let output = uninstall(&home, "2s").output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let remaining: Vec<_> = said.lines().filter(|line| line.contains("has not let go")).collect();
    assert!(
        remaining.len() == 1 && remaining[0].contains("two") && remaining[0].contains("mesh-agent reset"),
        "{said}"
    );
    // There was no MeshConfig: now there is one that says so.
    let config = home.get(&mesh_config(json!({}))).unwrap();
    assert_eq!(config["metadata"]["annotations"]["weft.dev/leaving"], "true");
    // Once the node has been freed by hand and its NodeState deleted, it goes with the last word.
    home.delete(
        &json!({"apiVersion": "weft.dev/v1alpha1", "kind": "NodeState", "metadata": {"name": "two"}}),
    );
    let output = uninstall(&home, "20s").output().unwrap();
    assert!(output.status.success(), "{}", self::said(&output));
    assert!(home.get(&mesh_config(json!({}))).is_none(), "the next installation would begin with leaving");
}

#[test]
fn without_an_api_server_or_its_definitions_it_fails_and_says_what_to_do() {
    let home = Home::with(kube_tests::Options::default(), false);
    let output = uninstall(&home, "1s").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("CustomResourceDefinitions"), "{}", said(&output));
    let output = uninstall_of(Path::new("/nowhere"), "1s").output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("/nowhere"), "{}", said(&output));
}
