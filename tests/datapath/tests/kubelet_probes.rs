//! Promise: kubelet's probes (httpGet, tcpSocket; gRPC is TCP) reach the applications of captured pods in every mode, also
//! with the agent stopped or dead, and nobody else passes as kubelet.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::programs::{self, nginx};
use lab::row::Table;
use lab::{Command, Lab, Pod, Process, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const KUBELET_PORT: &str = "10250";
const HTTP: u16 = 8080;
/// Tells clients their addresses.
const TCP: u16 = 8081;
const PATIENCE: Duration = Duration::from_secs(15);

/// A node with a kubelet, and a captured pod with two applications.
struct Scene<'a> {
    lab: &'a Lab,
    web: Arc<Pod>,
    _servers: (programs::Server, programs::Server),
}

impl<'a> Scene<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let web = lab.pod("shop/web").node("a").service_account("web").start()?;
        let servers = (
            nginx(&web).port(HTTP).file("healthz", "well").start()?,
            programs::peer(&web, "addresses", TCP, &[])?,
        );
        lab.await_captured(&web)?;
        Ok(Self { lab, web, _servers: servers })
    }

    /// A program on the node in a service of its own.
    fn service(&self, name: &str, arguments: &[&str]) -> Result<Command> {
        let node = self.lab.node("a");
        let cgroup = node.cgroup().child(name)?;
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.path().display());
        let peer = lab::binary("weft-lab-peer")?;
        let mut words: Vec<PathBuf> = ["sh".into(), "-c".into(), enter.into(), "sh".into()].into();
        words.extend(arguments.iter().map(|word| match *word {
            "weft-lab-peer" => peer.clone(),
            word => word.into(),
        }));
        node.command(words)
    }

    /// Something that listens on the kubelet port, as a service of this name.
    fn kubelet(&self, name: &str) -> Result<Process> {
        self.service(name, &["weft-lab-peer", "echo", "--listen", KUBELET_PORT])?.spawn()
    }

    /// The agent says that kubelet is in this service, or who is not.
    fn await_kubelet(&self, words: &str) -> Result<()> {
        eventually(PATIENCE, || {
            let check = self.lab.agent("a").admin("/v1/check").map_err(|error| format!("{error:#}"))?;
            let rows = check["checks"].as_array().cloned().unwrap_or_default();
            let row = rows.iter().find(|row| row["name"] == "kubelet").ok_or("no row")?;
            let says = row["message"].as_str().unwrap_or_default();
            if says.contains(words) { Ok(()) } else { Err(row.to_string()) }
        })?;
        // The row looks anew; the hooks are told within a second.
        Ok(())
    }

    /// One probe of each kind from a service, over both families.
    fn probe(&self, service: &str) -> Result<Vec<Value>> {
        let mut seen = Vec::new();
        for address in self.web.addresses() {
            let url = format!("http://{}/healthz", SocketAddr::new(address, HTTP));
            let curl = ["curl", "-sS", "-g", "--max-time", "5", &url];
            let answer = self.service(service, &curl)?.run()?.ok()?.text();
            ensure!(answer == "well", "{url} answered {answer:?}");
            let to = SocketAddr::new(address, TCP).to_string();
            let told = self.service(service, &["weft-lab-peer", "addresses", "--to", &to])?.run()?.ok()?;
            seen.push(told.json()?);
        }
        Ok(seen)
    }

    /// The probes succeed and are counted as such by the kernel, and as nothing by the agent.
    fn passes(&self, service: &str) -> Result<String> {
        let before = Meters::read(self.lab)?;
        let seen = self.probe(service)?;
        let after = Meters::read(self.lab)?;
        ensure!(after.probed == before.probed + 4, "{before:?} {after:?}");
        ensure!(after.opened == before.opened && after.steered == before.steered, "{before:?} {after:?}");
        told_the_truth(&seen)
    }

    /// They succeed, as connections from outside the mesh through the agent.
    fn is_from_outside(&self, service: &str) -> Result<String> {
        let before = Meters::read(self.lab)?;
        self.probe(service)?;
        let after = Meters::read(self.lab)?;
        ensure!(after.probed == before.probed, "{before:?} {after:?}");
        ensure!(after.steered == before.steered + 4, "{before:?} {after:?}");
        Ok(String::new())
    }
}

/// The application is told the prober's address and port.
fn told_the_truth(seen: &[Value]) -> Result<String> {
    let mut clients = Vec::new();
    for row in seen {
        let plain = |value: &Value| -> Option<SocketAddr> {
            let address: SocketAddr = value.as_str()?.parse().ok()?;
            Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        let (client, server) = (plain(&row["client"]["local"]), plain(&row["server"]["peer"]));
        ensure!(client.is_some() && client == server, "{row}");
        clients.extend(client.map(|client| client.to_string()));
    }
    Ok(clients.join(" "))
}

/// What was counted of connections to the pods of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meters {
    probed: u64,
    steered: u64,
    opened: u64,
}

impl Meters {
    fn read(lab: &Lab) -> Result<Self> {
        let text = lab.agent("a").metrics()?;
        let total = |metric: &str, label: &str| {
            let of_metric = |line: &&str| {
                line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && line.contains(label)
            };
            let values = text
                .lines()
                .filter(of_metric)
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum::<f64>() as u64
        };
        Ok(Self {
            probed: total("weft_kernel_events_total", "event=\"probed\""),
            steered: total("weft_kernel_events_total", "event=\"steered_plaintext\""),
            opened: total("weft_connections_opened_total", "direction=\"inbound\""),
        })
    }
}

#[test]
fn probes_pass_with_the_agent_alive_stopped_or_dead() {
    const TEST: &str = "probes_pass_with_the_agent_alive_stopped_or_dead";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").run(|lab| {
        let mut table = Table::new(TEST);
        let scene = Scene::set(lab)?;
        table.row("before there is a kubelet: from outside the mesh", || {
            scene.await_kubelet("nobody listens on port 10250")?;
            scene.is_from_outside("kubelet.service")
        });
        let mut kubelet = scene.kubelet("kubelet.service")?;
        scene.await_kubelet("kubelet.service")?;
        table.row("agent alive", || eventually_passes(&scene, "kubelet.service"));
        lab.agent("a").signal(Signal::SIGSTOP)?;
        table.row("agent stopped", || told_the_truth(&scene.probe("kubelet.service")?));
        lab.agent("a").signal(Signal::SIGCONT)?;
        lab.agent("a").kill();
        table.row("agent dead", || told_the_truth(&scene.probe("kubelet.service")?));
        table.row("agent dead: others are reset", || {
            let url = format!("http://{}/healthz", SocketAddr::new(scene.web.v4().into(), HTTP));
            let curl = ["curl", "-sS", "--max-time", "5", &url];
            let answer = scene.service("neighbour.service", &curl)?.run()?;
            // 7: could not connect; 56: reset.
            ensure!(matches!(answer.status.code(), Some(7 | 56)), "{}: {}", answer.status, answer.text());
            Ok(String::new())
        });
        lab.agent("a").start()?;
        lab.await_captured(&scene.web)?;
        table.row("agent back", || scene.passes("kubelet.service"));
        kubelet.kill();
        table.row("kubelet is started anew in another cgroup, and followed", || {
            let _new = scene.kubelet("kubelet-2.service")?;
            scene.await_kubelet("kubelet-2.service")?;
            eventually_passes(&scene, "kubelet-2.service")?;
            scene.is_from_outside("kubelet.service")
        });
        table.finish();
        Ok(())
    });
}

/// The hooks are told within a second of the look that finds kubelet.
fn eventually_passes(scene: &Scene<'_>, service: &str) -> Result<String> {
    eventually(PATIENCE, || scene.passes(service).map_err(|error| format!("{error:#}")))
}

#[test]
fn nobody_else_passes_as_kubelet() {
    const TEST: &str = "nobody_else_passes_as_kubelet";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").run(|lab| {
        let mut table = Table::new(TEST);
        let scene = Scene::set(lab)?;
        table.row("a pod that listens on the kubelet port in its own namespace", || {
            let other = lab.pod("plain/other").node("a").start()?;
            let _listens = programs::peer(&other, "echo", 10250, &[])?;
            lab.await_excluded(&other)?;
            scene.await_kubelet("nobody listens on port 10250")?;
            pod_is_from_outside(&scene, &other)
        });
        table.row("a pod on the host's network that listens there while there is no kubelet", || {
            let host = lab.pod("plain/host").node("a").start()?;
            let mut listens = on_the_host(lab, &host, &["echo", "--listen", KUBELET_PORT])?.spawn()?;
            scene.await_kubelet("is a pod's")?;
            host_is_from_outside(&scene, &host)?;
            listens.kill();
            Ok(String::new())
        });
        let kubelet = scene.kubelet("kubelet.service")?;
        scene.await_kubelet("kubelet.service")?;
        table.row("kubelet itself passes", || eventually_passes(&scene, "kubelet.service"));
        table.row("a pod on the host's network, in a cgroup of its own", || {
            let host = lab.pod("plain/host-2").node("a").start()?;
            host_is_from_outside(&scene, &host)
        });
        table.row("a pod's process of the same name", || {
            let other = lab.pod("plain/named").node("a").start()?;
            lab.await_excluded(&other)?;
            let directory = other.directory("bin")?;
            let kubelet = directory.join("kubelet");
            std::fs::copy(lab::binary("weft-lab-peer")?, &kubelet)?;
            let before = Meters::read(lab)?;
            let to = SocketAddr::new(scene.web.v4().into(), TCP).to_string();
            let words = [kubelet.as_os_str(), "addresses".as_ref(), "--to".as_ref(), to.as_ref()];
            other.exec(words)?.ok()?;
            let after = Meters::read(lab)?;
            ensure!(after.probed == before.probed && after.steered == before.steered + 1, "{after:?}");
            Ok(String::new())
        });
        table.row("another service of the host's", || scene.is_from_outside("neighbour.service"));
        drop(kubelet);
        table.row("two services that listen on the port are nobody", || {
            let listen = |service: &str, at: &str| {
                scene.service(service, &["weft-lab-peer", "echo", "--listen", at])?.spawn()
            };
            let _one = listen("kubelet.service", "127.0.0.1:10250")?;
            scene.await_kubelet("kubelet.service")?;
            eventually_passes(&scene, "kubelet.service")?;
            let _other = listen("neighbour.service", "127.0.0.2:10250")?;
            scene.await_kubelet("several cgroups")?;
            let from_outside =
                || scene.is_from_outside("kubelet.service").map_err(|error| format!("{error:#}"));
            eventually(PATIENCE, from_outside)
        });
        table.row("kubelet in the root cgroup is nobody", || {
            let node = lab.node("a");
            let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", node.cgroup().path().display());
            let peer = lab::binary("weft-lab-peer")?;
            let peer = peer.to_str().context("a path")?;
            let words = ["sh", "-c", &enter, "sh", peer, "echo", "--listen", KUBELET_PORT];
            let _root = node.command(words)?.spawn()?;
            scene.await_kubelet("in the root cgroup")?;
            eventually(PATIENCE, || {
                scene.is_from_outside("kubelet.service").map_err(|error| format!("{error:#}"))
            })
        });
        table.finish();
        Ok(())
    });
}

/// `weft-lab-peer` in a pod's cgroup and the host's namespace.
fn on_the_host(lab: &Lab, pod: &Pod, arguments: &[&str]) -> Result<Command> {
    let netns = format!("--net=/run/netns/{}", lab.node("a").netns());
    let peer = lab::binary("weft-lab-peer")?;
    let peer = peer.to_str().context("a path")?;
    let words = ["nsenter", &netns, peer].into_iter().chain(arguments.iter().copied());
    pod.command(words)
}

fn host_is_from_outside(scene: &Scene<'_>, host: &Pod) -> Result<String> {
    let before = Meters::read(scene.lab)?;
    let to = SocketAddr::new(scene.web.v4().into(), TCP).to_string();
    on_the_host(scene.lab, host, &["addresses", "--to", &to])?.run()?.ok()?;
    let after = Meters::read(scene.lab)?;
    ensure!(after.probed == before.probed && after.steered == before.steered + 1, "{before:?} {after:?}");
    Ok(String::new())
}

fn pod_is_from_outside(scene: &Scene<'_>, pod: &Pod) -> Result<String> {
    let before = Meters::read(scene.lab)?;
    let to = SocketAddr::new(scene.web.v4().into(), TCP).to_string();
    pod.exec(["weft-lab-peer", "addresses", "--to", &to])?.ok()?;
    let after = Meters::read(scene.lab)?;
    ensure!(after.probed == before.probed && after.steered == before.steered + 1, "{before:?} {after:?}");
    Ok(String::new())
}
