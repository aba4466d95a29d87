//! Promise: a client pod keeps as many connections open as its memory and descriptors allow: redirects to one address
//! and port would end at 28,232 of each family at the kernel's defaults.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Result, ensure};
use exhaustion::cast::{self, PORT};
use exhaustion::held::Held;
use exhaustion::limits;
use lab::row::Table;
use lab::{Lab, Pod};

const TEST: &str = "one_client_pod_keeps_more_connections_open_than_one_port_has_room_for";
/// At the kernel's defaults.
const MANY: usize = 40_000;
/// What an agent and a client need beside one descriptor a connection.
const BESIDE: usize = 2_000;
/// Ephemeral ports of a pod in the small version, and its connections of one family.
const FEW_PORTS: &str = "40000 40999";
const FEW: usize = 1_000;
const SOME: usize = 6_000;
/// One destination is reached by at most 64 tunnels of 1,000 connections: several, to stay far from that.
const SERVERS: usize = 4;

#[test]
fn one_client_pod_keeps_more_connections_open_than_one_port_has_room_for() {
    if !lab::ready(TEST) {
        return;
    }
    on_stage(|lab, client, pods| {
        let mut table = Table::new(TEST);
        table.row("the agents have raised their soft limit of open files to the hard one", || {
            for agent in lab.agents() {
                let (soft, hard) = limits::limits(agent.pid().unwrap_or_default())?;
                ensure!(soft == hard, "the agent on {}: {soft} of {hard}", agent.node());
            }
            Ok(String::new())
        });
        client.netns_thread(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", FEW_PORTS))??;
        for family in ["IPv4", "IPv6"] {
            table.row(&format!("{family}: {SOME} connections with {FEW} ephemeral ports"), || {
                keeps(client, &to(pods, family), SOME)
            });
        }
        table.finish();
        Ok(())
    });
}

const LONG: &str = "one_client_pod_keeps_40_000_connections_open_at_the_kernels_defaults";

#[test]
#[ignore = "long: an agent needs 42,000 open files, more than a container's process may have on some machines"]
fn one_client_pod_keeps_40_000_connections_open_at_the_kernels_defaults() {
    if !lab::ready(LONG) {
        return;
    }
    on_stage(|_, client, pods| {
        let mut table = Table::new(LONG);
        for family in ["IPv4", "IPv6"] {
            let row = format!("{family}: {MANY} connections at the kernel's defaults");
            match enough(MANY) {
                Ok(()) => table.row(&row, || keeps(client, &to(pods, family), MANY)),
                Err(why) => table.skip(&row, &why),
            }
        }
        table.finish();
        Ok(())
    });
}

/// A captured client on one node, servers on the other.
fn on_stage(act: impl FnOnce(&Lab, &Arc<Pod>, &[Arc<Pod>]) -> Result<()>) {
    Lab::builder().node("a").node("b").run(|lab| {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").start()?;
        let servers: Vec<_> = (1..=SERVERS)
            .map(|number| cast::server(lab, &format!("shop/server-{number}")))
            .collect::<Result<_>>()?;
        lab.await_captured(&client)?;
        let pods: Vec<Arc<Pod>> = servers.iter().map(|(pod, _)| pod.clone()).collect();
        act(lab, &client, &pods)
    });
}

fn enough(connections: usize) -> Result<(), String> {
    let needed = connections + BESIDE;
    match lab::preflight::open_files() {
        Some((_, hard)) if hard >= needed as u64 => Ok(()),
        Some((_, hard)) => Err(format!("{needed} open files a process are needed, {hard} can be had")),
        None => Err("the limit of open files is not known".to_owned()),
    }
}

fn to(servers: &[Arc<Pod>], family: &str) -> Vec<SocketAddr> {
    let address =
        |pod: &Arc<Pod>| -> IpAddr { if family == "IPv4" { pod.v4().into() } else { pod.v6().into() } };
    servers.iter().map(|pod| SocketAddr::new(address(pod), PORT)).collect()
}

fn keeps(client: &Pod, to: &[SocketAddr], connections: usize) -> Result<String> {
    let mut held = Held::start(client, to, connections)?;
    let detail = held.all_open(connections)?;
    held.all_alive(connections)?;
    Ok(detail)
}
