//! Promise: where another socket load balancer rewrites a Service's address before Weft's hook sees it (Cilium's, in place of
//! kube-proxy), or after, the outcome is the same as without it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use datapath::conversation::{Host, dial, say};
use datapath::seen::{connection, identity, watch_syns};
use datapath::services::{Written, endpoint, outcome, refused_for};
use datapath::socket_lb::{By, attach};
use lab::row::Table;
use lab::{Lab, Pod};
use serde_json::Value;

const TEST: &str = "a_socket_load_balancer_beside_the_mesh_changes_nothing";

#[test]
fn a_socket_load_balancer_beside_the_mesh_changes_nothing() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(beside);
}

/// Which address the mesh's hook gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// The one that was dialled.
    Service,
    /// The one that the load balancer made of it.
    Endpoint,
}

/// A captured client on node a, a captured server on node b behind a Service of both families.
struct Stage<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    server: Arc<Pod>,
    host: Host,
    services: [SocketAddr; 2],
}

fn beside(lab: &Lab) -> Result<()> {
    lab.namespace("shop").captured()?;
    let client = lab.pod("shop/client").node("a").service_account("client").start()?;
    let server = lab.pod("shop/server").node("b").service_account("server").start()?;
    lab.await_captured(&client)?;
    lab.await_captured(&server)?;
    lab.await_peers_tunnel(&server)?;
    let host = Host::start(&server)?;
    let services: [SocketAddr; 2] = ["10.96.202.1:80".parse()?, "[fd00:96::ca01]:80".parse()?];
    let port = format!("{{name: x, port: {}}}", host.port());
    let ips = services.map(|service| format!("'{}'", service.ip()));
    Written::new(
        "web",
        &format!("clusterIP: {}, clusterIPs: [{}], ports: [{{name: x, port: 80}}]", ips[0], ips.join(", ")),
    )
    .slice(&port, &[endpoint(server.v4(), "")])
    .slice(&port, &[endpoint(server.v6(), "")])
    .put(lab)?;
    let stage = Stage { lab, client, server, host, services };
    let node = lab.node("a");
    let (root, pods) = (node.cgroup().path().to_path_buf(), kubepods(&stage.client, node.cgroup().path())?);

    let mut table = Table::new(TEST);
    let mut plain = None;
    table.row("without it", || {
        let other_port = SocketAddr::new(stage.services[0].ip(), 81);
        refused_for(stage.lab.agent("a"), &stage.client, other_port, "refused", "no_service_port")?;
        let seen = stage.seen(Sees::Service)?;
        plain = Some(seen.clone());
        Ok(seen)
    });
    let rewrites = stage.rewrites();
    for (name, at, by, sees) in [
        ("below the mesh's, so before it, by links", &pods, By::Link, Sees::Endpoint),
        ("below the mesh's, so before it, by BPF_PROG_ATTACH", &pods, By::Attach, Sees::Endpoint),
        ("beside the mesh's and later, so after it", &root, By::Link, Sees::Service),
    ] {
        table.row(name, || {
            let _attached = attach(at, &rewrites, by)?;
            stage.same_as(plain.as_deref(), sees)
        });
    }
    for (name, by) in [
        ("beside the mesh's and earlier, so before it, by links", By::Link),
        ("beside the mesh's and earlier, so before it, by BPF_PROG_ATTACH", By::Attach),
    ] {
        table.row(name, || {
            // The order at one cgroup is the order of arrival.
            let agent = lab.agent("a");
            agent.kill();
            let bpffs = lab.place().bpffs("a");
            let reset =
                Command::new(lab::binary("mesh-agent")?).arg("reset").arg("--bpffs").arg(bpffs).output()?;
            ensure!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
            let attached = attach(&root, &rewrites, by)?;
            std::fs::create_dir_all(lab.place().bpffs("a"))?;
            agent.start()?;
            lab.await_captured(&stage.client)?;
            let same = stage.same_as(plain.as_deref(), Sees::Endpoint);
            drop(attached);
            same
        });
    }
    table.finish();
    Ok(())
}

/// The cgroup of all pods of a node: the one right below the node's own that holds this pod's.
fn kubepods(pod: &Pod, root: &std::path::Path) -> Result<PathBuf> {
    let below = pod.cgroup().path().strip_prefix(root).context("a pod's cgroup is below its node's")?;
    let first = below.components().next().context("a pod's cgroup is not its node's")?;
    Ok(root.join(first))
}

impl Stage<'_> {
    fn rewrites(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let port = self.host.port();
        let ends = [self.server.v4().into(), self.server.v6().into()];
        self.services.into_iter().zip(ends.map(|address| SocketAddr::new(address, port))).collect()
    }

    fn same_as(&self, plain: Option<&str>, sees: Sees) -> Result<String> {
        let seen = self.seen(sees)?;
        ensure!(Some(seen.as_str()) == plain, "{seen} instead of {plain:?}");
        Ok(seen)
    }

    /// What can be seen of connections to the Service: who answers, how it is carried, as whom, and what is on the wire.
    fn seen(&self, sees: Sees) -> Result<String> {
        let syns = watch_syns(self.lab, "a")?;
        let mut words = Vec::new();
        for (service, (_, target)) in self.services.into_iter().zip(self.rewrites()) {
            let client = dial(&self.client, service)?;
            say_first(&client)?;
            let server = self.host.accept()?;
            let mut heard = [0; 5];
            std::io::Read::read_exact(&mut &server, &mut heard)?;
            ensure!(&heard == b"first", "heard {heard:?}");
            say(&server, &client, b"and back")?;
            let row = connection(self.lab.agent("a"), "outbound", client.local_addr()?, target)?;
            ensure!(row["src"]["identity"] == identity(&self.client).as_str(), "{row}");
            ensure!(row["dst"]["identity"] == identity(&self.server).as_str(), "{row}");
            // Who chose the endpoint: the Service's name is known to whom its address was seen by.
            let known = row["dst"]["service"] == "web";
            ensure!(known == (sees == Sees::Service), "{sees:?} was to be seen by the mesh's hook: {row}");
            words.push(format!("{} {}", text(&row["path"]), text(&row["security"])));
        }
        // A port that it does not have is the mesh's to refuse.
        words.push(outcome(&self.client, SocketAddr::new(self.services[0].ip(), 81))?);
        // Tunnels may be there from before: what counts is that nothing else is.
        let pcap = syns.stop()?;
        for address in self.server.addresses() {
            let plain = pcap.plaintext_syns_to(address, self.host.port());
            ensure!(plain == 0, "{plain} SYNs in plain text to {address}");
        }
        Ok(words.join(", "))
    }
}

fn text(word: &Value) -> &str {
    word.as_str().unwrap_or_default()
}

fn say_first(mut client: &std::net::TcpStream) -> Result<()> {
    std::io::Write::write_all(&mut client, b"first").context("speak")
}
