//! Promise: to install the mesh on a cluster that runs interrupts nobody, also where its agents are there long before the
//! controller; who is labelled is captured once it has come.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube_tests::{Cluster, traffic::Traffic};
use lab::{Pod, eventually};
use serde_json::Value;

const NAME: &str = "who_runs_is_not_interrupted_and_who_is_labelled_is_captured";
const SOON: Duration = Duration::from_secs(20);

#[test]
fn who_runs_is_not_interrupted_and_who_is_labelled_is_captured() {
    if !kube_tests::ready(NAME) {
        return;
    }
    Cluster::builder().node("a").node("b").without_mesh().run(|cluster| {
        cluster.namespace("shop").captured()?;
        let start = |name: &str, node: &str| cluster.pod(name).node(node).start();
        let (web, client) = (start("shop/web", "b")?, start("shop/client", "a")?);
        let (database, job) = (start("plain/database", "b")?, start("plain/job", "a")?);
        let plain = between(&database, &job)?;
        let shop = between(&web, &client)?;

        // No authority, no roots, no controller: as in the minute after `helm install`.
        for agent in cluster.agents() {
            agent.launch()?;
            eventually(SOON, || agent.admin("/v1/pods").map_err(|error| format!("{error:#}")))?;
        }
        for traffic in [&plain, &shop] {
            traffic.await_more(100)?;
        }
        // What is open when it is captured is reset, as preCaptureSockets has it: so it ends before.
        shop.close()?;

        cluster.controller().start()?;
        for agent in cluster.agents() {
            agent.await_ready()?;
        }
        for pod in [&web, &client] {
            cluster.await_captured(pod)?;
        }
        cluster.await_peers_tunnel(&web)?;
        for pod in [&database, &job] {
            cluster.await_excluded(pod)?;
        }
        let shop = between(&web, &client)?;
        for traffic in [&plain, &shop] {
            traffic.await_more(20)?;
        }
        let own = client.v4().to_string();
        eventually(SOON, || {
            let rows = cluster.agent("a").connections().map_err(|error| format!("{error:#}"))?;
            let is_tunnelled = |row: &Value| {
                row["security"] == "mtls"
                    && row["src"]["addr"].as_str().is_some_and(|it| it.starts_with(&own))
            };
            if rows.iter().any(is_tunnelled) { Ok(()) } else { Err(format!("{rows:?}")) }
        })?;
        shop.close()?;
        plain.close()
    });
}

fn between(server: &Arc<Pod>, client: &Arc<Pod>) -> Result<Traffic> {
    let traffic = Traffic::start(server, 8080, &[(client, server.v4().into(), 8080)])?;
    traffic.await_more(20)?;
    Ok(traffic)
}
