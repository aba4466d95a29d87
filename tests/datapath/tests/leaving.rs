//! Promise: when the mesh is uninstalled every pod goes on as if there had been none: under traffic no connect fails, what
//! runs lives on, and nothing of the mesh is attached or pinned afterwards. A mesh that stays after all takes its pods in
//! again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, Pod, Service, eventually, programs};
use serde_json::Value;

const FILE: &str = "meshconfig.yaml";
const PORT: u16 = 7000;
/// Peers are told, and at most 30 s are waited for them.
const PATIENCE: Duration = Duration::from_secs(45);

/// Captured pods on two nodes.
struct Shop<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    web: Arc<Pod>,
    service: Service,
    _server: programs::Server,
}

impl<'a> Shop<'a> {
    fn open(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").label("app", "web").start()?;
        let server = programs::peer(&web, "echo", PORT, &[])?;
        let service = lab.service("shop/web").port(80, PORT).select("app", "web").create()?;
        let shop = Self { lab, client, web, service, _server: server };
        shop.await_in()?;
        Ok(shop)
    }

    fn await_in(&self) -> Result<()> {
        self.lab.await_captured(&self.client)?;
        self.lab.await_captured(&self.web)?;
        self.lab.await_peers_tunnel(&self.web)
    }

    fn to_web(&self) -> SocketAddr {
        SocketAddr::new(self.web.v4().into(), PORT)
    }

    fn to_service(&self) -> SocketAddr {
        SocketAddr::new(self.service.v4().into(), 80)
    }

    /// Nothing is pinned, attached or listening on a node.
    fn is_free(&self, node: &str) -> Result<()> {
        let pins = self.lab.place().bpffs(node).join("weft");
        ensure!(!pins.exists(), "{} is there", pins.display());
        let links = self.links(node)?;
        ensure!(links.is_empty(), "attached on {node}: {links:?}");
        for pod in [&self.client, &self.web] {
            let ports = pod.listening_ports()?;
            let own = |port: &&u16| (15000..15200).contains(*port);
            ensure!(!ports.iter().any(|port| own(&port)), "{} listens on {ports:?}", pod.key());
        }
        Ok(())
    }

    /// What bpftool says is attached to the node's cgroup, or to the namespaces of its pods.
    fn links(&self, node: &str) -> Result<Vec<Value>> {
        let node = self.lab.node(node);
        let cgroup = node.cgroup().id()?;
        let mut namespaces = Vec::new();
        for pod in self.lab.pods().iter().filter(|pod| pod.node().name() == node.name()) {
            namespaces.push(std::fs::metadata(Path::new("/run/netns").join(pod.netns()))?.ino());
        }
        let all: Vec<Value> = node.command(["bpftool", "-j", "link", "show"])?.run()?.ok()?.json()?;
        let ours = |link: &Value| {
            link["cgroup_id"] == cgroup
                || link["netns_ino"].as_u64().is_some_and(|inode| namespaces.contains(&inode))
        };
        Ok(all.into_iter().filter(ours).collect())
    }

    fn await_free(&self) -> Result<()> {
        eventually(PATIENCE, || {
            ["a", "b"].iter().try_for_each(|node| self.is_free(node)).map_err(|error| format!("{error:#}"))
        })?;
        Ok(())
    }

    /// A new connection, that no agent has anything to do with.
    fn is_untouched(&self) -> Result<()> {
        for to in [self.to_web(), self.to_service()] {
            let held = Held::open(&self.client, to)?;
            for agent in self.lab.agents().iter().filter(|agent| agent.pid().is_some()) {
                held.ensure_untouched(agent)?;
            }
        }
        Ok(())
    }
}

fn leave(lab: &Lab, leaving: bool) -> Result<()> {
    lab.write_object(
        FILE,
        &format!(
            "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata:\n  name: default\n  annotations:\n    \
             weft.dev/leaving: \"{leaving}\"\nspec: {{}}\n"
        ),
    )
}

/// What `/readyz` of a node's agent says is missing.
fn missing(lab: &Lab, node: &str) -> Result<String> {
    let pod = lab.agent(node).pod();
    let curl = ["curl", "-sS", "--max-time", "5", "http://127.0.0.1:15021/readyz"];
    // In the pod, because nobody else need reach it.
    Ok(pod.exec(curl)?.ok()?.text())
}

#[test]
fn a_mesh_that_leaves_fails_no_connection_and_leaves_nothing() {
    const TEST: &str = "a_mesh_that_leaves_fails_no_connection_and_leaves_nothing";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(TEST);
        let shop = Shop::open(lab)?;
        let attached = shop.links("a")?.len();
        ensure!(attached >= 6, "only {attached} links while the mesh is there");
        let loads = [
            Hammer::start(&shop.client, shop.to_web(), 60)?,
            Hammer::start(&shop.client, shop.to_service(), 60)?,
        ];
        let mut meshed = Held::open(&shop.client, shop.to_web())?;
        meshed.ensure_mtls(lab.agent("a"))?;

        let start = Instant::now();
        leave(lab, true)?;
        table.row("every hook is detached and every pin removed", || {
            shop.await_free()?;
            Ok(format!("{attached} links gone after {:.1?}", start.elapsed()))
        });
        table.row("new connections are nobody's, what ran lives on", || {
            shop.is_untouched()?;
            meshed.speak()?;
            Ok(String::new())
        });
        table.row("readiness says that it left", || {
            eventually(PATIENCE, || match missing(lab, "a") {
                Ok(said) if said.contains("left:") => Ok(said),
                other => Err(format!("{other:?}")),
            })
        });
        table.row("a pod that is born meanwhile is not refused", || {
            let line = ["weft-lab-peer", "first-instruction", &shop.to_web().to_string()];
            let (_pod, process) = lab.pod("shop/born").node("a").schedule()?.launch(line)?;
            let seen: Value = process.wait(Duration::from_secs(10))?.ok()?.json()?;
            let refusals = seen["refusals"].as_array().map_or(0, Vec::len);
            ensure!(seen["connected"] == true && refusals == 0, "{seen}");
            Ok(String::new())
        });
        table.row("an agent that is started again attaches nothing", || {
            drop(meshed);
            lab.agent("a").restart()?;
            eventually(PATIENCE, || {
                let said = missing(lab, "a").map_err(|error| format!("{error:#}"))?;
                if said.contains("left:") { Ok(()) } else { Err(said) }
            })?;
            shop.is_free("a")?;
            shop.is_untouched()?;
            Ok(String::new())
        });
        table.row("the mesh stays after all: pods are taken in again", || {
            leave(lab, false)?;
            shop.await_in()?;
            Held::open(&shop.client, shop.to_web())?.ensure_mtls(lab.agent("a"))?;
            let links = shop.links("a")?.len();
            ensure!(links >= attached, "{links} links");
            let said = missing(lab, "a")?;
            ensure!(said.contains("\"ready\":true"), "{said}");
            Ok(String::new())
        });
        table.row("and it can leave once more", || {
            lab.remove_object(FILE)?;
            leave(lab, true)?;
            shop.await_free()?;
            shop.is_untouched()?;
            Ok(String::new())
        });
        for (what, load) in ["pod", "Service"].into_iter().zip(loads) {
            let tally = load.stop()?;
            table.row(&format!("all the while, to the {what}: 0 failed"), || tally.none_failed());
        }
        table.finish();
        Ok(())
    });
}

#[test]
fn an_agent_that_dies_on_the_way_out_frees_the_node_when_it_is_back() {
    const TEST: &str = "an_agent_that_dies_on_the_way_out_frees_the_node_when_it_is_back";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(TEST);
        let shop = Shop::open(lab)?;
        // A peer that does not answer keeps the node on its way out.
        lab.agent("b").signal(nix::sys::signal::Signal::SIGSTOP)?;
        leave(lab, true)?;
        lab.await_excluded(&shop.client)?;
        let web = shop.to_web();
        lab.agent("a").kill();
        table.row("started again, it frees the node at once", || {
            ensure!(!shop.links("a")?.is_empty(), "it was free before");
            lab.agent("a").launch()?;
            eventually(PATIENCE, || shop.is_free_of_hooks("a").map_err(|error| format!("{error:#}")))?;
            Ok(String::new())
        });
        lab.agent("b").kill();
        table.row("a node whose agent is dead is freed by hand", || {
            ensure!(!shop.links("b")?.is_empty(), "it was free before");
            let program = lab::binary("mesh-agent")?;
            let bpffs = lab.place().bpffs("b");
            let reset = [program.as_os_str(), "reset".as_ref(), "--bpffs".as_ref(), bpffs.as_os_str()];
            lab.node("b").command(reset)?.run()?.ok()?;
            shop.is_free("b")?;
            Held::open(&shop.client, web)?;
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}

impl Shop<'_> {
    fn is_free_of_hooks(&self, node: &str) -> Result<()> {
        let pins = self.lab.place().bpffs(node).join("weft");
        ensure!(!pins.exists(), "{} is there", pins.display());
        let links = self.links(node)?;
        ensure!(links.is_empty(), "attached on {node}: {links:?}");
        Ok(())
    }
}
