//! Promise: two pods of one node talk directly, known to each other's node by their identities, and a pod reaches itself through
//! its own Service.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use datapath::cast::service;
use datapath::conversation::{Host, say};
use datapath::seen::{connection, identity};
use lab::row::Table;
use lab::{Lab, Pod, programs};
use serde_json::Value;

const TEST: &str = "pods_of_one_node_and_a_pod_with_itself";
const PORT: u16 = 9200;

#[test]
fn pods_of_one_node_and_a_pod_with_itself() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").run(on_one_node);
}

fn on_one_node(lab: &Lab) -> Result<()> {
    lab.namespace("shop").captured()?;
    let client = lab.pod("shop/client").service_account("client").start()?;
    let server = lab.pod("shop/server").service_account("server").label("app", "server").start()?;
    lab.await_captured(&client)?;
    lab.await_captured(&server)?;
    let _addresses = programs::peer(&server, "addresses", PORT, &[])?;
    let _echo = programs::peer(&server, "echo", 9002, &[])?;
    let service = service(lab, &server, "server", &[(80, PORT), (81, 9002)])?;
    await_tunnel(lab, &server)?;

    let mut table = Table::new(TEST);
    let (v4, v6) = (IpAddr::from(service.v4()), IpAddr::from(service.v6()));
    for (who, pod) in [("a neighbour", &client), ("the pod itself", &server)] {
        for (name, to) in [
            ("service, IPv4", SocketAddr::new(v4, 80)),
            ("service, IPv6", SocketAddr::new(v6, 80)),
            ("service, mapped", SocketAddr::new(service.v4().to_ipv6_mapped().into(), 80)),
            ("pod, IPv4", SocketAddr::new(server.v4().into(), PORT)),
            ("pod, IPv6", SocketAddr::new(server.v6().into(), PORT)),
        ] {
            table.row(&format!("{who}, {name}"), || addresses(pod, to));
        }
        for (name, address) in [("IPv4", v4), ("IPv6", v6)] {
            table.row(&format!("{who}, a crowd, {name}"), || {
                let to = SocketAddr::new(address, 81).to_string();
                let crowd =
                    ["weft-lab-peer", "crowd", "--to", &to, "--connections", "50", "--bytes", "200000"];
                let said: Value = pod.exec(crowd)?.ok()?.json()?;
                ensure!(said["ok"] == 50, "{said}");
                Ok(format!("50 connections, {:.2} s", said["seconds"].as_f64().unwrap_or_default()))
            });
        }
    }
    table.row("between neighbours: directly, both identities", || directly(lab, &client, &server));
    table.finish();
    Ok(())
}

/// Own agent as the peer's agent: it must offer the tunnel to itself.
fn await_tunnel(lab: &Lab, pod: &Pod) -> Result<()> {
    lab::eventually(std::time::Duration::from_secs(20), || {
        let workloads = lab.agent("a").workloads().map_err(|error| format!("{error:#}"))?;
        match workloads.iter().find(|entry| entry["uid"] == pod.uid()) {
            Some(entry) if entry["tunnel"] == "hbone" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Nobody sees loopback, or an address or port that is not the other's own.
fn addresses(from: &Pod, to: SocketAddr) -> Result<String> {
    let said: Value = from.exec(["weft-lab-peer", "addresses", "--to", &to.to_string()])?.ok()?.json()?;
    let get = |end: &str, key: &str| said[end][key].as_str().unwrap_or_default().parse::<SocketAddr>();
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    ensure!(get("client", "peer")? == to, "the client dialled another: {said}");
    let client = plain(get("client", "local")?);
    ensure!(from.addresses().contains(&client.ip()), "the client is not itself: {said}");
    ensure!(plain(get("server", "accepted")?) == client, "the server sees another: {said}");
    ensure!(plain(get("server", "peer")?) == client, "the server sees another: {said}");
    Ok(format!("seen as {client}"))
}

fn directly(lab: &Lab, client: &Pod, server: &Pod) -> Result<String> {
    let host = Host::start(server)?;
    let talk = host.converse(client, server.v4().into())?;
    say(&talk.client, &talk.server, b"between neighbours")?;
    let from = talk.client.local_addr()?;
    let endpoint = SocketAddr::new(server.v4().into(), host.port());
    let row = connection(lab.agent("a"), "outbound", from, endpoint)?;
    ensure!(row["path"] == "direct" && row["security"] == "kernel", "{row}");
    ensure!(row["src"]["identity"] == identity(client).as_str(), "{row}");
    ensure!(row["dst"]["identity"] == identity(server).as_str(), "{row}");
    // Both ends are this agent's to tell of; it carries neither.
    let other = connection(lab.agent("a"), "inbound", from, endpoint)?;
    ensure!(other["path"] == "direct" && other["dst"]["identity"] == identity(server).as_str(), "{other}");
    Ok(format!("{} to {}", identity(client), identity(server)))
}
