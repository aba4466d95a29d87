//! Promise: a pod is found by its UID wherever kubelet and its runtime put it, with whatever its containers make below.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use datapath::cold::forget_agent;
use datapath::home::{Home, PORT, meshed};
use datapath::seen::{connection, identity};
use lab::row::Table;
use lab::{Lab, Qos, eventually};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_pod_is_found_by_its_uid_in_every_layout() {
    const NAME: &str = "a_pod_is_found_by_its_uid_in_every_layout";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").systemd_cgroups().run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let qualities =
            [("guaranteed", Qos::Guaranteed), ("burstable", Qos::Burstable), ("besteffort", Qos::BestEffort)];
        let homes = [Home::start(lab, "home-a", "a")?, Home::start(lab, "home-b", "b")?];
        for ((node, driver), peer) in
            [("a", "cgroupfs"), ("b", "systemd")].into_iter().zip(homes.iter().rev())
        {
            for (quality, qos) in qualities {
                for is_static in [false, true] {
                    let kind = if is_static { "static" } else { "ordinary" };
                    table.row(&format!("{driver}, {quality}, {kind}: captured, as itself"), || {
                        let name = format!("{kind}-{quality}-{node}");
                        let pod = lab.pod(&format!("shop/{name}")).node(node).service_account(&name).qos(qos);
                        let pod = if is_static { pod.static_pod() } else { pod }.start()?;
                        lab.await_captured(&pod)?;
                        let held = meshed(lab, &pod, peer.at(PORT))?;
                        let far = lab.agent(peer.pod.node().name());
                        let row = connection(far, "inbound", held.client, peer.at(PORT))?;
                        ensure!(row["src"]["identity"] == identity(&pod).as_str(), "{row}");
                        pod.delete()?;
                        Ok(String::new())
                    });
                }
            }
            table.row(
                &format!("{driver}: a runtime in a container makes namespaces and cgroups of its own"),
                || nested(lab, node, peer),
            );
        }
        table.finish();
        Ok(())
    });
}

/// Containers in a container: the pod is still its sandbox, also to an agent that finds all of it at once.
fn nested(lab: &Lab, node: &str, peer: &Home) -> Result<String> {
    let name = format!("nested-{node}");
    let pod = lab.pod(&format!("shop/{name}")).node(node).service_account(&name).start()?;
    lab.await_captured(&pod)?;
    let mut inner = Vec::new();
    for path in
        ["a0/docker/1", "zz/docker/2", "zz/kubepods/burstable/pod0b0b0b0b-1111-4222-8333-444444444444"]
    {
        let cgroup = pod.cgroup().child(path)?;
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --net sh -c 'echo in && exec sleep 600'",
            cgroup.path().display()
        );
        let process = pod.spawn(["sh", "-c", &script])?;
        eventually(SOON, || {
            if process.stdout_so_far().contains("in") { Ok(()) } else { Err(process.failure_report()) }
        })?;
        inner.push(process);
    }
    for cold in [false, true] {
        let agent = lab.agent(node);
        if cold {
            forget_agent(lab, node)?
        } else {
            agent.kill()
        }
        agent.start()?;
        lab.await_captured(&pod)?;
        meshed(lab, &pod, peer.at(PORT))?;
        let pods = agent.pods()?;
        ensure!(!pods.iter().any(|row| row.to_string().contains("0b0b0b0b")), "a pod in a pod: {pods:?}");
    }
    drop(inner);
    pod.delete()?;
    Ok("after a restart, and with nothing remembered".to_owned())
}
