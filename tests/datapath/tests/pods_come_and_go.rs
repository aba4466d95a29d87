//! Promise: pods come and go under load and nobody notices; pods outside the mesh are left alone; capture cannot be
//! flushed away from inside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use lab::programs::{self, Server, nginx};
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use serde_json::Value;

const PORT: u16 = 7000;
/// Servers behind the service at any time, and how many are replaced one after the other.
const SERVERS: usize = 3;
const REPLACED: usize = 16;
/// Pods outside the mesh whose first connect is watched.
const OUTSIDERS: usize = 20;

#[test]
fn servers_are_replaced_under_load() {
    if !lab::ready("servers_are_replaced_under_load") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("servers_are_replaced_under_load");
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let outside = lab.pod("plain/client").node("a").start()?;
        let service = lab.service("shop/web").port(80, PORT).select("app", "web").create()?;
        let mut running = VecDeque::new();
        for number in 0..SERVERS {
            running.push_back(bring_up(lab, number)?);
        }
        lab.await_captured(&client)?;
        lab.await_excluded(&outside)?;
        for (pod, _) in &running {
            lab.await_captured(pod)?;
        }
        let to = SocketAddr::new(service.v4().into(), 80);
        let to_v6 = SocketAddr::new(service.v6().into(), 80);
        let loads = [
            ("from the mesh", Hammer::start(&client, to, 100)?),
            ("from the mesh, IPv6", Hammer::start(&client, to_v6, 50)?),
            ("from outside the mesh", Hammer::start(&outside, to, 50)?),
        ];
        let replaced = (SERVERS..SERVERS + REPLACED).try_for_each(|number| {
            running.push_back(bring_up(lab, number)?);
            let (pod, server) = running.pop_front().context("a server")?;
            retire(lab, &pod, server).with_context(|| format!("take {} away", pod.key()))
        });
        for (name, load) in loads {
            let tally = load.stop()?;
            table.row(&format!("{REPLACED} servers replaced, {name}: 0 failed"), || tally.none_failed());
        }
        table.row("what is gone is let go of", || {
            replaced?;
            let alive: Vec<&str> = running.iter().map(|(pod, _)| pod.uid()).collect();
            let known = eventually(Duration::from_secs(10), || {
                let known = known(lab, "web-").map_err(|error| format!("{error:#}"))?;
                let gone: Vec<&String> = known.iter().filter(|uid| !alive.contains(&uid.as_str())).collect();
                if gone.is_empty() { Ok(known.len()) } else { Err(format!("still known: {gone:?}")) }
            })?;
            Ok(format!("{known} servers known, {REPLACED} forgotten"))
        });
        table.finish();
        Ok(())
    });
}

/// A new server, as a rollout makes it: an endpoint as soon as it listens, whatever the mesh thinks of it by then.
fn bring_up(lab: &Lab, number: usize) -> Result<(Arc<Pod>, Server)> {
    let node = if number.is_multiple_of(3) { "a" } else { "b" };
    let builder = lab.pod(&format!("shop/web-{number}")).node(node).service_account("web");
    let pod = builder.label("app", "web").unready().start()?;
    let server = programs::peer(&pod, "echo", PORT, &[])?;
    pod.set_ready(true)?;
    Ok((pod, server))
}

/// As a rollout takes it away: first no endpoint any more, for everybody; then its last connections; then the end.
fn retire(lab: &Lab, pod: &Arc<Pod>, server: Server) -> Result<()> {
    pod.mark_terminating()?;
    for agent in lab.agents() {
        eventually(Duration::from_secs(10), || {
            let services = agent.admin("/v1/services").map_err(|error| format!("{error:#}"))?;
            if is_endpoint(&services, pod) { Err(services.to_string()) } else { Ok(()) }
        })
        .with_context(|| format!("wait until {} knows", agent.node()))?;
    }
    let address = SocketAddr::new(pod.v4().into(), PORT);
    eventually(Duration::from_secs(10), || {
        let mut open = 0;
        for agent in lab.agents() {
            let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
            open += rows.iter().filter(|row| row["dst"]["addr"] == address.to_string().as_str()).count();
        }
        if open == 0 { Ok(()) } else { Err(format!("{open} connections to it are open")) }
    })?;
    // What kube-proxy sent there before its change is a request of some milliseconds; the agents see nothing of it.
    std::thread::sleep(Duration::from_millis(300));
    drop(server);
    pod.delete()
}

fn is_endpoint(services: &Value, pod: &Pod) -> bool {
    let endpoints =
        services.as_array().into_iter().flatten().flat_map(|service| service["endpoints"].as_array());
    endpoints.flatten().any(|endpoint| endpoint["workload"] == pod.uid() && endpoint["ready"] == true)
}

/// UIDs of the pods with such names that any agent knows, on its node or anywhere.
fn known(lab: &Lab, prefix: &str) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for agent in lab.agents() {
        for row in agent.pods()?.into_iter().chain(agent.workloads()?) {
            if row["name"].as_str().is_some_and(|name| name.starts_with(prefix)) {
                known.push(row["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    known.sort_unstable();
    known.dedup();
    Ok(known)
}

#[test]
fn a_pod_outside_the_mesh_is_untouched() {
    if !lab::ready("a_pod_outside_the_mesh_is_untouched") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_pod_outside_the_mesh_is_untouched");
        let server = lab.pod("plain/server").node("b").start()?;
        let _banner = programs::peer(&server, "banner", PORT, &[])?;
        let _printer = programs::peer(&server, "print-peer", PORT + 1, &[])?;
        let _echo = programs::peer(&server, "echo", PORT + 2, &[])?;
        lab.await_excluded(&server)?;
        table.row("before it is classified it is refused, and then not", || first_connects(lab, &server));
        let client = lab.pod("plain/client").node("a").start()?;
        lab.await_excluded(&client)?;
        table.row("its addresses are its own", || {
            let to = SocketAddr::new(server.v4().into(), PORT + 1).to_string();
            let seen: Value = client.exec(["weft-lab-peer", "connect-once", &to])?.ok()?.json()?;
            let peer: Value = serde_json::from_str(seen["read"].as_str().unwrap_or_default())?;
            ensure!(peer["peer"] == seen["local"] && peer["local"] == to.as_str(), "{seen} {peer}");
            Ok(format!("{} as {}", to, seen["local"]))
        });
        table.row("it connects and no agent carries it: 0 failed", || {
            let to = SocketAddr::new(server.v4().into(), PORT + 2);
            let mut held = Held::open(&client, to)?;
            let load = Hammer::start(&client, to, 200)?;
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                for agent in lab.agents() {
                    let rows = agent.connections()?;
                    ensure!(rows.is_empty(), "{rows:?}");
                }
                held.speak()?;
            }
            load.stop()?.none_failed()
        });
        table.finish();
        Ok(())
    });
}

/// Programs outside the mesh that connect as their first instruction: how often and how long they are refused.
fn first_connects(lab: &Lab, server: &Pod) -> Result<String> {
    let to = SocketAddr::new(server.v4().into(), PORT).to_string();
    let (mut refusals, mut refused, mut longest) = (0, 0, 0);
    for number in 0..OUTSIDERS {
        let scheduled = lab.pod(&format!("plain/first-{number}")).node("a").schedule()?;
        // The API has known it for anything from nothing to half a second.
        std::thread::sleep(Duration::from_millis(number as u64 * 500 / OUTSIDERS as u64));
        let (pod, process) = scheduled.launch(["weft-lab-peer", "first-instruction", &to, "30"])?;
        let seen: Value = process.wait(Duration::from_secs(60))?.ok()?.json()?;
        ensure!(seen["connected"] == true && seen["end"] == "line", "number {number}: {seen}");
        let count = seen["refusals"].as_array().map_or(0, Vec::len);
        refusals += count;
        refused += usize::from(count > 0);
        longest = longest.max(seen["connected_us"].as_u64().unwrap_or(u64::MAX));
        pod.delete()?;
    }
    Ok(format!(
        "{OUTSIDERS} pods: {refused} refused at first ({refusals} times in all), all connected after {:.1} ms at the latest",
        longest as f64 / 1000.0
    ))
}

#[test]
fn a_pod_that_flushes_its_tables_is_still_captured() {
    if !lab::ready("a_pod_that_flushes_its_tables_is_still_captured") {
        return;
    }
    const SECRET: &str = "what-a-flushed-table-must-not-let-out";
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_pod_that_flushes_its_tables_is_still_captured");
        lab.namespace("shop").captured()?;
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let _nginx = nginx(&web).port(8080).file("secret", SECRET).start()?;
        let _echo = programs::peer(&web, "echo", PORT, &[])?;
        lab.await_captured(&client)?;
        lab.await_peers_tunnel(&web)?;
        let url = format!("http://{}:8080/secret", web.v4());
        for (name, commands) in flushes() {
            table.row(name, || {
                for pod in [&client, &web] {
                    for command in &commands {
                        let output = pod.exec(command.split(' '))?;
                        ensure!(output.success(), "{command}: {}", output.errors());
                    }
                }
                let wire = lab.capture_wire("b")?;
                let held = Held::open(&client, SocketAddr::new(web.v4().into(), PORT))?;
                lab.agents().iter().try_for_each(|agent| held.ensure_mtls(agent))?;
                let answer = client.exec(["curl", "-sS", "--max-time", "10", &url])?.ok()?.text();
                ensure!(answer == SECRET, "answered {answer:?}");
                let pcap = wire.stop()?;
                let plain = pcap.count_plaintext(SECRET.as_bytes());
                let syns = [8080, PORT].map(|port| pcap.plaintext_syns_to(web.v4().into(), port));
                ensure!(plain == 0 && syns == [0, 0], "{plain} bytes, {syns:?} SYNs in plaintext");
                Ok("mtls, 0 bytes in plaintext".to_owned())
            });
        }
        table.finish();
        Ok(())
    });
}

/// What a pod with NET_ADMIN can do to its own namespace's tables.
fn flushes() -> Vec<(&'static str, Vec<&'static str>)> {
    let iptables = [
        "iptables -F",
        "iptables -t nat -F",
        "iptables -t mangle -F",
        "iptables -t raw -F",
        "iptables -X",
        "ip6tables -F",
        "ip6tables -t nat -F",
    ];
    vec![("iptables flushed", iptables.to_vec()), ("nftables flushed", vec!["nft flush ruleset"])]
}
