//! Helm installs the mesh, upgrades it, takes it away and installs it again; where it is away nothing of it is left, and
//! every pod connects as before. All of it under traffic.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use kube_tests::left::{left, left_on};
use kube_tests::{Cluster, Shop, tools, traffic::Traffic};
use lab::{SYSTEM_NAMESPACE, eventually};

fn nothing_left(cluster: &Cluster) -> Result<()> {
    eventually(Duration::from_secs(10), || match left(cluster) {
        Ok(found) if found.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn installed_upgraded_and_uninstalled_with_nothing_left_and_nothing_failed() {
    if !kube_tests::ready("installed_upgraded_and_uninstalled_with_nothing_left_and_nothing_failed") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let traffic = Shop::open(cluster)?.traffic;
        let chart = tools::workspace().join("deploy/charts/mesh");
        let chart = chart.to_str().expect("UTF-8");
        let upgrade = ["upgrade", "weft", chart, "--namespace", SYSTEM_NAMESPACE, "--reuse-values"];
        cluster.api().helm(&[&upgrade[..], &["--set", "meshConfig.excludedPorts={9999}"]].concat())?;
        let config = cluster.api().kubectl(&["get", "meshconfig", "default", "-o", "yaml"])?;
        ensure!(config.contains("9999"), "the upgrade did not reach the MeshConfig: {config}");
        traffic.await_more(20)?;
        let uninstall = ["uninstall", "weft", "--namespace", SYSTEM_NAMESPACE, "--timeout", "90s"];
        cluster.api().helm(&uninstall)?;
        cluster.end()?;
        nothing_left(cluster)?;
        traffic.await_more(20)?;
        cluster.install_again()?;
        for pod in cluster.pods().iter().filter(|pod| pod.namespace() == "shop") {
            cluster.await_captured(pod)?;
        }
        traffic.await_more(20)?;
        cluster.api().helm(&uninstall)?;
        cluster.collect()?;
        nothing_left(cluster)?;
        traffic.await_more(20)?;
        cluster.api().helm(&["uninstall", "weft-crds", "--namespace", SYSTEM_NAMESPACE])?;
        let all = cluster.api().kubectl(&[
            "get",
            "clusterroles,clusterrolebindings,customresourcedefinitions,priorityclasses",
            "-o",
            "name",
        ])?;
        // The definitions stay, and with them what was configured, until somebody takes them away.
        let is_definition = |name: &str| name.starts_with("customresourcedefinition");
        let ours: Vec<&str> =
            all.lines().filter(|name| name.contains("weft") && !is_definition(name)).collect();
        ensure!(ours.is_empty(), "left in the API: {ours:?}");
        let names = ["authorizationpolicies.weft.dev", "meshconfigs.weft.dev", "nodestates.weft.dev"];
        cluster.api().kubectl(&[&["delete", "customresourcedefinition"], &names[..]].concat())?;
        traffic.close()?;
        Ok(())
    });
}

/// As docs/install.md has it.
fn stay_after_all(cluster: &Cluster) -> Result<()> {
    cluster.api().kubectl(&["annotate", "meshconfig", "default", "weft.dev/leaving-"])?;
    cluster.api().helm(&["rollback", "weft", "1", "--namespace", SYSTEM_NAMESPACE])?;
    let status = cluster.api().helm(&["status", "weft", "--namespace", SYSTEM_NAMESPACE])?;
    ensure!(status.contains("STATUS: deployed"), "{status}");
    for pod in cluster.pods().iter().filter(|pod| pod.namespace() == "shop" && pod.node().name() == "a") {
        cluster.await_captured(pod)?;
    }
    // Or the next uninstall would believe that it has left.
    eventually(Duration::from_secs(10), || {
        let left = ["get", "nodestate", "a", "--output", "jsonpath={.status.left}"];
        match cluster.api().kubectl(&left) {
            Ok(left) if left == "false" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_node_whose_agent_is_dead_is_named_and_reset_frees_it() {
    if !kube_tests::ready("a_node_whose_agent_is_dead_is_named_and_reset_frees_it") {
        return;
    }
    Cluster::builder().node("a").node("b").value("uninstall.timeout=15s").run(|cluster| {
        let traffic = Shop::open(cluster)?.traffic;
        traffic.close()?;
        cluster.agent("b").kill();
        let uninstall = ["uninstall", "weft", "--namespace", SYSTEM_NAMESPACE];
        let refused = cluster.api().helm(&[&uninstall[..], &["--timeout", "60s"]].concat());
        ensure!(refused.is_err(), "uninstalled although node b has not let go: {refused:?}");
        let said = std::fs::read_to_string(cluster.place().logs().join("job-weft-uninstall.log"))?;
        ensure!(said.contains('b') && !said.is_empty(), "the hook said {said:?}");
        eventually(Duration::from_secs(10), || match left_on(cluster, "a") {
            Ok(found) if found.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        ensure!(!left_on(cluster, "b")?.is_empty(), "node b has let go with no agent");
        stay_after_all(cluster)?;
        let node = cluster.node("b");
        let agent = lab::binary("mesh-agent")?;
        let reset = node
            .command([agent.as_os_str(), "reset".as_ref()])?
            .env("WEFT_CGROUP", node.cgroup().path())
            .env("WEFT_BPFFS", cluster.place().bpffs("b"))
            .run()?;
        reset.ok()?;
        cluster.api().kubectl(&["delete", "nodestate", "b"])?;
        cluster.api().helm(&[&uninstall[..], &["--timeout", "60s"]].concat())?;
        cluster.collect()?;
        nothing_left(cluster)?;
        let pods = cluster.pods();
        let pod = |name: &str| pods.iter().find(|pod| pod.name() == name).expect("a pod of the shop");
        let clients =
            [(pod("far"), pod("web").v4().into(), 8090), (pod("near"), pod("web").v4().into(), 8090)];
        let traffic = Traffic::start(pod("web"), 8090, &clients)?;
        traffic.await_more(20)?;
        traffic.close()?;
        Ok(())
    });
}
