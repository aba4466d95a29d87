//! Promise: whatever a pod goes through from its first container to its last process, it is in the mesh as itself or not at
//! all. What starts over, is deleted by force or has its address go to another is in the faults suite (`lives_of_pods`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datapath::cold::forget_agent;
use datapath::held::Held;
use datapath::home::{BANNER, Home, PORT, meshed};
use datapath::report::connect_once;
use datapath::seen::{connection, identity, only_tunnels_to, watch_syns};
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};
use serde_json::Value;

const HBONE: u16 = 15008;
const SOON: Duration = Duration::from_secs(10);
/// From the first look at a pod without an agent: the controller's grace, and a loaded machine.
const AGENTLESS: Duration = Duration::from_secs(75);

#[test]
fn every_container_of_a_pod_is_in_the_mesh_as_the_pod() {
    const NAME: &str = "every_container_of_a_pod_is_in_the_mesh_as_the_pod";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").systemd_cgroups().node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let server = Home::start(lab, "server", "b")?;
        let client = Home::start(lab, "client", "b")?;
        let wire = watch_syns(lab, "b")?;
        // The sandbox is there, and its object says so; no container has started.
        let pod = lab.pod("shop/app").node("a").service_account("app").unready().start()?;
        pod.set_phase("Pending")?;
        let banner = server.at(BANNER).to_string();
        table.row("an init container that dials as its first instruction, and ends", || {
            for _ in 0..2 {
                let words = ["weft-lab-peer", "first-instruction", &banner, "30"];
                let seen: Value = pod.command_in_new_container(words)?.run()?.ok()?.json()?;
                ensure!(seen["connected"] == true && seen["end"] == "line", "{seen}");
            }
            Ok("two, one after the other".to_owned())
        });
        let port = PORT.to_string();
        let sidecar = pod.command_in_new_container(["weft-lab-peer", "echo", "--listen", &port])?.spawn()?;
        let own = SocketAddr::new(pod.v4().into(), PORT);
        table.row("a native sidecar serves while the pod is still starting", || {
            pod.await_listening(PORT, SOON)?;
            lab.await_captured(&pod)?;
            lab.await_peers_tunnel(&pod)?;
            meshed(lab, &client.pod, own)?.speak().map(|()| String::new())
        });
        table.row("it dials, as the pod", || holds(lab, &pod, &server));
        pod.set_phase("Running")?;
        pod.set_ready(true)?;
        table.row("the application's container dials", || holds(lab, &pod, &server));
        table.row("the next one in its place, after a crash, too", || {
            let mut crashed = pod.command_in_new_container(["weft-lab-peer", "pause"])?.spawn()?;
            crashed.kill();
            holds(lab, &pod, &server)
        });
        table.row("an ephemeral container dials", || holds(lab, &pod, &server));
        table.row("the sidecar has served on through all of it", || {
            let mut held = meshed(lab, &client.pod, own)?;
            held.speak()?;
            sidecar.stop(SOON)?;
            Ok(String::new())
        });
        table.row("nothing of it was in plaintext", || only_tunnels_to(wire, &server.pod, &[PORT, BANNER]));
        table.finish();
        Ok(())
    });
}

/// A program in a new container of the pod's holds a connection: the far agent knows whose it is.
fn holds(lab: &Lab, pod: &Pod, server: &Home) -> Result<String> {
    let to = server.at(PORT).to_string();
    let words = ["weft-lab-peer", "hold", "--connections", "1", "--to", &to];
    let process = pod.command_in_new_container(words)?.spawn()?;
    let row = connection(
        lab.agent(server.pod.node().name()),
        "inbound",
        SocketAddr::new(pod.v4().into(), 0),
        server.at(PORT),
    )
    .with_context(|| process.failure_report())?;
    ensure!(row["src"]["identity"] == identity(pod).as_str(), "{row}");
    process.stop(SOON)?.ok()?;
    // Its row goes before the next one is looked for.
    eventually(SOON, || {
        let rows = lab.agent(server.pod.node().name()).connections().map_err(|error| format!("{error:#}"))?;
        let from = format!("{}:", pod.v4());
        let left =
            rows.iter().filter(|row| row["src"]["addr"].as_str().is_some_and(|at| at.starts_with(&from)));
        match left.count() {
            0 => Ok(()),
            count => Err(format!("{count} rows")),
        }
    })?;
    Ok(identity(pod))
}

#[test]
fn a_pod_that_is_on_its_way_out_keeps_everything_until_its_last_process() {
    const NAME: &str = "a_pod_that_is_on_its_way_out_keeps_everything_until_its_last_process";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        for (word, end) in [("terminating", "Running"), ("succeeded", "Succeeded"), ("failed", "Failed")] {
            let server = Home::start(lab, word, "b")?;
            server.pod.set_label("app", Some(word))?;
            let service = lab.service(&format!("shop/{word}")).port(80, PORT).select("app", word).create()?;
            service.await_endpoints(lab, 2)?;
            let mut held = meshed(lab, &client.pod, server.at(PORT))?;
            match end {
                "Running" => server.pod.mark_terminating()?,
                end => server.pod.set_phase(end)?,
            }
            await_no_endpoint(lab, &server.pod)?;
            table.row(&format!("{word}: capture, certificate and port 15008 stay"), || {
                lab.await_captured(&server.pod)?;
                let ports = server.pod.listening_ports()?;
                ensure!(ports.contains(&HBONE), "{ports:?}");
                let certs = lab.agent("b").certs()?;
                let own = identity(&server.pod);
                ensure!(certs.iter().any(|row| row.to_string().contains(&own)), "{certs:?}");
                Ok(String::new())
            });
            table.row(&format!("{word}: what is open goes on, and it dials as itself"), || {
                held.speak()?;
                let dialled = meshed(lab, &server.pod, client.at(PORT))?;
                let row = connection(lab.agent("a"), "inbound", dialled.client, client.at(PORT))?;
                ensure!(row["src"]["identity"] == identity(&server.pod).as_str(), "{row}");
                Ok(String::new())
            });
            if end == "Running" {
                table.row("terminating: it is still reached, through its tunnel", || {
                    meshed(lab, &client.pod, server.at(PORT))?.speak().map(|()| String::new())
                });
            } else {
                table.row(&format!("{word}: it owns no address, though its status says so"), || {
                    let known = lab.agent("a").workloads()?;
                    let row = known.iter().find(|row| row["uid"] == server.pod.uid()).context("its row")?;
                    ensure!(row["addresses"].as_array().is_some_and(Vec::is_empty), "{row}");
                    Ok(String::new())
                });
            }
            table.row(&format!("{word}: with its last process all of it goes"), || {
                server.pod.cgroup().kill(SOON)?;
                server.pod.destroy()?;
                let own = identity(&server.pod);
                eventually(SOON, || {
                    let text = |error: anyhow::Error| format!("{error:#}");
                    let pods = lab.agent("b").pods().map_err(text)?;
                    let rows = pods.iter().filter(|row| row["uid"] == server.pod.uid()).count();
                    if rows == 0 { Ok(()) } else { Err(format!("{own}: {rows} rows")) }
                })?;
                server.pod.delete_object().map(|()| String::new())
            });
        }
        table.finish();
        Ok(())
    });
}

/// Waits until every agent has heard that the pod is not what it was: no Service leads to it.
fn await_no_endpoint(lab: &Lab, pod: &Pod) -> Result<()> {
    lab.agents().iter().try_for_each(|agent| {
        eventually(SOON, || {
            let services = agent.admin("/v1/services").map_err(|error| format!("{error:#}"))?;
            let all = services.as_array().into_iter().flatten().filter_map(|one| one["endpoints"].as_array());
            let serves = |one: &&Value| one["workload"] == pod.uid() && one["ready"] == true;
            if all.flatten().any(|one| serves(&one)) { Err(services.to_string()) } else { Ok(()) }
        })
    })
}

#[test]
fn an_address_that_two_running_pods_claim_is_nobodys() {
    const NAME: &str = "an_address_that_two_running_pods_claim_is_nobodys";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        let web = Home::start(lab, "web", "b")?;
        let to = web.at(PORT);
        let mut held = meshed(lab, &client.pod, to)?;
        const DOUBLE: &str = "0d0d0d0d-1111-4222-8333-444444444444";
        let object = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: double, namespace: shop, uid: {DOUBLE}}}\n\
             spec: {{nodeName: a, serviceAccountName: double, containers: [{{name: main, image: lab}}]}}\n\
             status: {{phase: Running, podIP: {0}, podIPs: [{{ip: {0}}}, {{ip: \"{1}\"}}]}}\n",
            web.pod.v4(),
            web.pod.v6()
        );
        for round in 1..=2 {
            lab.write_object("double.yaml", &object)?;
            table.row(
                &format!("round {round}: it is refused, by both families, and never plaintext"),
                || {
                    let wire = watch_syns(lab, "b")?;
                    for address in web.pod.addresses() {
                        let to = SocketAddr::new(address, PORT);
                        eventually(SOON, || {
                            let once =
                                connect_once(&client.pod, to, Some("x\n")).map_err(|e| format!("{e:#}"))?;
                            once.reset().map(drop).map_err(|error| format!("{error:#}"))
                        })?;
                    }
                    let pcap = wire.stop()?;
                    let syns: usize = web
                        .pod
                        .addresses()
                        .into_iter()
                        .map(|address| pcap.plaintext_syns_to(address, PORT))
                        .sum();
                    ensure!(syns == 0, "{syns} SYNs in plaintext");
                    let metrics = lab.agent("a").metrics()?;
                    ensure!(metrics.contains("reason=\"contested_address\""), "not counted");
                    Ok(String::new())
                },
            );
            table.row(&format!("round {round}: both pods are told, once, with each other's name"), || {
                for (uid, other) in [(web.pod.uid(), "shop/double"), (DOUBLE, "shop/web")] {
                    let lines = eventually(SOON, || match said(lab, "ContestedAddress", uid) {
                        lines if lines.len() >= round => Ok(lines),
                        lines => Err(format!("{lines:?}")),
                    })?;
                    ensure!(lines.len() == round, "{lines:?}");
                    let own = web.pod.v4().to_string();
                    ensure!(
                        lines.iter().all(|line| line.contains(other) && line.contains(&own)),
                        "{lines:?}"
                    );
                }
                Ok(String::new())
            });
            table.row(&format!("round {round}: what was open goes on"), || {
                held.speak().map(|()| String::new())
            });
            lab.remove_object("double.yaml")?;
            table.row(&format!("round {round}: when one of them goes, it is the other's"), || {
                meshed(lab, &client.pod, to)?.speak().map(|()| String::new())
            });
        }
        table.finish();
        Ok(())
    });
}

/// Lines of the controller's log with a word on a pod.
fn said(lab: &Lab, reason: &str, uid: &str) -> Vec<String> {
    let text = std::fs::read_to_string(lab.place().logs().join("controller.log")).unwrap_or_default();
    // The word on a pod names its UID in a field of its own.
    let field = format!("pod=\"{uid}\"");
    let of =
        |line: &&str| line.contains(reason) && line.replace(&format!("pod={uid}"), &field).contains(&field);
    text.lines().filter(of).map(str::to_owned).collect()
}

#[test]
fn pods_on_the_hosts_network_are_never_captured_and_nobody() {
    const NAME: &str = "pods_on_the_hosts_network_are_never_captured_and_nobody";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let server = Home::start(lab, "server", "b")?;
        let store = lab.pod("yard/store").node("b").start()?;
        let _echo = programs::peer(&store, "echo", PORT, &[])?;
        let node = lab.node("a");
        const UID: &str = "0a0a0a0a-1111-4222-8333-444444444444";
        lab.write_object(
            "host.yaml",
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: host, namespace: shop, uid: {UID}}}\n\
                 spec: {{nodeName: a, hostNetwork: true, containers: [{{name: main, image: lab}}]}}\n\
                 status: {{phase: Running, podIP: {}}}\n",
                node.v4()
            ),
        )?;
        let cgroup = node.cgroup().child(&format!("kubepods/burstable/pod{UID}"))?;
        let main = cgroup.child("main")?;
        let hold = |to: SocketAddr| {
            let peer = lab::binary("weft-lab-peer")?;
            let script = format!(
                "echo $$ > {}/cgroup.procs && exec {} hold --connections 1 --to {to}",
                main.path().display(),
                peer.display()
            );
            node.command(["sh", "-c", &script])?.spawn()
        };
        let state = |wanted: &str| {
            eventually(SOON, || {
                let rows = lab.agent("a").pods().map_err(|error| format!("{error:#}"))?;
                let row = rows.into_iter().find(|row| row["uid"] == UID);
                match row {
                    Some(row) if row["state"] == "excluded" && row["reason"] == wanted => Ok(row),
                    row => Err(format!("{row:?}")),
                }
            })
        };
        let from = SocketAddr::new(IpAddr::from(node.v4()), 0);
        table.row("labelled by its namespace: excluded, and meshctl pods says why", || {
            state("host_network").map(|_| String::new())
        });
        table.row("it reaches a captured pod in plaintext, as nobody", || {
            let process = hold(server.at(PORT))?;
            let row = connection(lab.agent("b"), "inbound", from, server.at(PORT))
                .with_context(|| process.failure_report())?;
            ensure!(row["security"] == "plaintext" && row["src"]["identity"].is_null(), "{row}");
            ensure!(row["src"]["name"].is_null(), "{row}");
            process.stop(SOON)?.ok()?;
            Ok(String::new())
        });
        table.row("its own agent carries nothing of it", || {
            let to = SocketAddr::new(store.v4().into(), PORT);
            let process = hold(to)?;
            eventually(SOON, || {
                let said = process.stdout_so_far();
                if said.contains("\"opened\":true") { Ok(()) } else { Err(process.failure_report()) }
            })?;
            let rows = lab.agent("a").connections()?;
            ensure!(rows.is_empty(), "{rows:?}");
            process.stop(SOON)?.ok()?;
            Ok(String::new())
        });
        table.row("the host's address is nobody's in any agent's world", || {
            for agent in lab.agents() {
                let row = agent.workloads()?.into_iter().find(|row| row["uid"] == UID).context("its row")?;
                ensure!(!row.to_string().contains(&node.v4().to_string()), "{row}");
                ensure!(row["tunnel"] == "none", "{row}");
            }
            Ok(String::new())
        });
        cgroup.kill(SOON)?;
        cgroup.remove()?;
        table.finish();
        Ok(())
    });
}

#[test]
fn a_pod_on_a_node_without_an_agent_is_outside_until_there_is_one() {
    const NAME: &str = "a_pod_on_a_node_without_an_agent_is_outside_until_there_is_one";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let client = Home::start(lab, "client", "a")?;
        forget_agent(lab, "b")?;
        let start = Instant::now();
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let _echo = programs::peer(&web, "echo", PORT, &[])?;
        let to = SocketAddr::new(web.v4().into(), PORT);
        let mut open = None;
        table.row("its peers use plaintext", || {
            lab.await_peers_see(&web, "none")?;
            let held = Held::open(&client.pod, to)?;
            // Outside the mesh: nobody carries it.
            ensure!(held.row(lab.agent("a"))?.is_none(), "it has a row");
            open = Some(held);
            Ok(String::new())
        });
        table.row("people are told of it, once, and not of a pod that is captured", || {
            let lines = eventually(AGENTLESS, || match said(lab, "NoAgentOnNode", web.uid()) {
                lines if lines.is_empty() => Err("nothing".to_owned()),
                lines => Ok(lines),
            })?;
            let after = start.elapsed();
            ensure!(lines.len() == 1 && lines[0].contains("node b"), "{lines:?}");
            let others = said(lab, "NoAgentOnNode", client.pod.uid());
            ensure!(others.is_empty(), "{others:?}");
            Ok(format!("after {after:.0?}"))
        });
        table.row("with an agent it is captured, and what others had open goes on", || {
            lab.agent("b").start()?;
            lab.await_captured(&web)?;
            lab.await_peers_tunnel(&web)?;
            meshed(lab, &client.pod, to)?;
            let Some(held) = &mut open else { bail!("nothing was open") };
            held.speak()?;
            ensure!(said(lab, "NoAgentOnNode", web.uid()).len() == 1, "told again");
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}
