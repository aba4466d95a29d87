#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Parser as _;
use mesh_telemetry::http::{Response, Routes, Server};
use mesh_telemetry::shutdown::Shutdown;
use serde_json::json;
use tokio::runtime::Runtime;

use super::*;
use crate::args::Args;
use crate::client::{Client, ClientError, FromNode, Transport};

mod api_server;
use api_server::{ApiServer, FakePod, Way};

/// An agent that answers `/v1/pods` on a port of this machine, as long as the runtime lives.
fn agent(runtime: &Runtime, answer: serde_json::Value) -> SocketAddr {
    let _inside = runtime.enter();
    let server = Server::loopback(0).unwrap();
    let addr = server.local_addr().unwrap();
    assert_eq!(addr.ip(), Ipv4Addr::LOCALHOST);
    let routes = Routes::new().get("/v1/pods", move |_| std::future::ready(Response::json(&answer)));
    runtime.spawn(server.serve(routes, Shutdown::new()));
    addr
}

fn agents() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn pod(name: &'static str, node: &'static str, way: Way) -> FakePod {
    FakePod { name, node, way }
}

fn client(server: &ApiServer, more: &[&str], to: impl FnOnce(Arc<Tunnels>) -> Transport) -> Client {
    let kubeconfig = server.kubeconfig.display().to_string();
    let line = [&["meshctl", "--kubeconfig", &kubeconfig], more, &["status"]].concat();
    let global = Args::try_parse_from(line).unwrap().global;
    let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let tunnels =
        Tunnels::new(Place::new(&global, runtime.clone()), &global.weft_namespace, global.admin_port);
    Client::new(to(tunnels), runtime, Duration::from_secs(10))
}

fn of_node(server: &ApiServer, node: &str) -> Client {
    client(server, &[], |tunnels| Transport::pod(tunnels, Wanted::Node(node.into())))
}

#[test]
fn a_nodes_agent_answers_through_the_api_server() {
    let runtime = agents();
    // More than the stream's buffers hold at once.
    let long = json!(["x".repeat(3_000_000)]);
    let addr = agent(&runtime, long.clone());
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let server = ApiServer::start(vec![pod("weft-agent-x", "a", Way::To(addr))], protocol);
        let client = of_node(&server, "a");
        assert_eq!(client.end(), "the agent of node a");
        assert!(client.get("/v1/pods").unwrap() == long, "{protocol}");
        assert_eq!(client.end(), "the agent of node a (weft-system/weft-agent-x)");
        // It is looked for once.
        client.get("/v1/pods").unwrap();
        let requests = server.requests.lock().unwrap().clone();
        let to = |path: &str| requests.iter().filter(|head| head.starts_with(path)).count();
        let of = "GET /api/v1/namespaces/weft-system/pods";
        assert_eq!(to(&format!("{of}?")), 1, "{requests:?}");
        assert_eq!(to(&format!("{of}/weft-agent-x/portforward?&ports=15000 ")), 2, "{requests:?}");
    }
}

#[test]
fn of_all_nodes_each_answers_for_itself() {
    let runtime = agents();
    let (a, c) = (agent(&runtime, json!(["a"])), agent(&runtime, json!(["c"])));
    let pods = vec![
        pod("weft-agent-z", "c", Way::To(c)),
        pod("weft-agent-y", "b", Way::Nobody),
        pod("weft-agent-x", "a", Way::To(a)),
        pod("weft-agent-w", "d", Way::Pending),
    ];
    let server = ApiServer::start(pods, "v5.channel.k8s.io");
    let client = client(&server, &[], Transport::nodes);
    let answers = client.get_each("/v1/pods").unwrap();
    let nodes: Vec<_> = answers.iter().map(|answer| answer.node.as_deref().unwrap()).collect();
    assert_eq!(nodes, ["a", "b", "c", "d"]);
    assert_eq!(answers[0].answer.as_ref().unwrap(), &json!(["a"]));
    assert_eq!(answers[2].answer.as_ref().unwrap(), &json!(["c"]));
    let FromNode { answer: Err(error), .. } = &answers[1] else { panic!("{answers:?}") };
    let words = error.to_string();
    assert!(
        error.is_unreachable() && words.contains("node b") && words.contains("connection refused"),
        "{words}"
    );
    for error in
        [answers[3].answer.as_ref().unwrap_err(), &of_node(&server, "d").get("/v1/pods").unwrap_err()]
    {
        let words = error.to_string();
        assert!(
            error.is_unreachable() && words.starts_with("the agent of node d is not running (Pending)"),
            "{words}"
        );
    }
    // What is asked of one agent is not asked of all.
    assert!(matches!(client.get("/v1/pods"), Err(ClientError::OneAlone)));
}

#[test]
fn an_agent_that_is_replaced_is_found_again() {
    let runtime = agents();
    let addr = agent(&runtime, json!(["a"]));
    let server = ApiServer::start(vec![pod("weft-agent-x", "a", Way::To(addr))], "v5.channel.k8s.io");
    let (one, all) = (of_node(&server, "a"), client(&server, &[], Transport::nodes));
    let ask = || {
        let of_all = all.get_each("/v1/pods").unwrap().remove(0).answer;
        [one.get("/v1/pods"), of_all]
    };
    assert!(ask().iter().all(Result::is_ok));
    *server.pods.lock().unwrap() = vec![pod("weft-agent-y", "a", Way::To(addr))];
    for answer in ask() {
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("weft-agent-x"), "{error}");
    }
    assert!(ask().iter().all(Result::is_ok));
    // Which nodes there are was asked once.
    let requests = server.requests.lock().unwrap();
    let lists = requests.iter().filter(|head| head.contains("/pods?") && !head.contains("nodeName"));
    let by_label = lists.filter(|head| head.contains("labelSelector")).count();
    assert_eq!(by_label, 1, "{requests:?}");
}

#[test]
fn a_node_without_an_agent_and_a_pod_that_is_not_there_suggest_near_names() {
    let server = ApiServer::start(vec![pod("weft-agent-x1", "worker-1", Way::Nobody)], "v4.channel.k8s.io");
    let error = of_node(&server, "worker-l").get("/v1/pods").unwrap_err();
    assert_eq!(error.to_string(), "no agent on node worker-l: is it worker-1?");
    assert!(!error.is_unreachable());
    let error = of_node(&server, "zebra").get("/v1/pods").unwrap_err().to_string();
    assert!(error.contains("--weft-namespace"), "{error}");
    let wanted = Wanted::Pod("weft-system".into(), "weft-agent-x2".into());
    let error = client(&server, &[], |tunnels| Transport::pod(tunnels, wanted)).get("/v1/pods").unwrap_err();
    assert!(error.to_string().ends_with("not found: is it weft-agent-x1?"), "{error}");
}

#[test]
fn who_may_not_forward_is_told_what_is_missing() {
    let denied =
        "pods \"weft-agent-x\" is forbidden: User \"eve\" cannot create resource \"pods/portforward\"";
    for (code, message, words) in [
        (403, denied, "a Role must give this user get and create on pods/portforward in weft-system"),
        (401, "Unauthorized", "have the kubeconfig's credentials expired"),
    ] {
        let server =
            ApiServer::start(vec![pod("weft-agent-x", "a", Way::No(code, message))], "v4.channel.k8s.io");
        let error = of_node(&server, "a").get("/v1/pods").unwrap_err();
        let text = error.to_string();
        assert!(!error.is_unreachable() && text.contains(words) && text.contains(message), "{text}");
    }
}

#[test]
fn a_wrong_context_and_a_cluster_that_is_gone_are_told_apart() {
    let server = ApiServer::start(Vec::new(), "v4.channel.k8s.io");
    let wrong =
        client(&server, &["--context", "stagin"], |tunnels| Transport::pod(tunnels, Wanted::Controller));
    let error = wrong.get("/v1/status").unwrap_err();
    assert_eq!(error.to_string(), "the kubeconfig has no context stagin: is it staging?");
    assert!(!error.is_unreachable());
    let gone = client(&server, &[], |tunnels| Transport::pod(tunnels, Wanted::Controller));
    let text = std::fs::read_to_string(&server.kubeconfig).unwrap();
    // Bound, so that nobody else is given the port, and not listening.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["server"] = format!("http://127.0.0.1:{port}").into();
    std::fs::write(&server.kubeconfig, config.to_string()).unwrap();
    let error = gone.get("/v1/status").unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}
