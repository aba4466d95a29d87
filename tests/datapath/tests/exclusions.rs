//! Promise: what a MeshConfig excludes, captured pods dial as if there were no mesh, from the moment it is applied to the
//! moment it is taken back; nothing else changes, and no connection fails at a change.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use datapath::words::await_line;
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};

const FILE: &str = "meshconfig.yaml";
const PORTS: [u16; 2] = [7000, 7001];
const PATIENCE: Duration = Duration::from_secs(15);

/// A captured client, and two servers in the mesh: what is outside of it nobody carries anyway.
struct Shop<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    web: Arc<Pod>,
    store: Arc<Pod>,
    _servers: Vec<programs::Server>,
}

impl<'a> Shop<'a> {
    fn open(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let store = lab.pod("shop/store").node("b").service_account("store").start()?;
        let mut servers = Vec::new();
        for (pod, port) in [&web, &store].into_iter().flat_map(|pod| PORTS.map(|port| (pod, port))) {
            servers.push(programs::peer(pod, "echo", port, &[])?);
        }
        lab.await_captured(&client)?;
        for pod in [&web, &store] {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        Ok(Self { lab, client, web, store, _servers: servers })
    }

    /// Whether the agent carries a new connection.
    fn is_carried(&self, to: SocketAddr) -> Result<bool> {
        let held = Held::open(&self.client, to)?;
        // The agent makes the row before it relays the first byte, which was heard.
        Ok(held.row(self.lab.agent("a"))?.is_some())
    }

    /// Over both families: which ports of a pod the agent carries.
    fn carried(&self, pod: &Pod) -> Result<Vec<(bool, u16)>> {
        let mut carried = Vec::new();
        for address in pod.addresses() {
            for port in PORTS {
                if self.is_carried(SocketAddr::new(address, port))? {
                    carried.push((address.is_ipv6(), port));
                }
            }
        }
        carried.sort_unstable();
        Ok(carried)
    }

    fn await_carried(&self, pod: &Pod, wanted: &[(bool, u16)]) -> Result<String> {
        eventually(PATIENCE, || {
            let carried = self.carried(pod).map_err(|error| format!("{error:#}"))?;
            if carried == wanted { Ok(()) } else { Err(format!("{}: {carried:?}", pod.key())) }
        })?;
        Ok(format!("the agent carries {wanted:?} of {}", pod.key()))
    }
}

fn config(spec: &str) -> String {
    format!("apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata:\n  name: default\nspec:\n{spec}")
}

const ALL: [(bool, u16); 4] = [(false, PORTS[0]), (false, PORTS[1]), (true, PORTS[0]), (true, PORTS[1])];

#[test]
fn excluded_destinations_are_dialled_as_if_there_were_no_mesh() {
    const TEST: &str = "excluded_destinations_are_dialled_as_if_there_were_no_mesh";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(TEST);
        let shop = Shop::open(lab)?;
        let (store, web) = (&*shop.store, &*shop.web);
        let to_store = SocketAddr::new(store.v4().into(), PORTS[0]);
        let load = Hammer::start(&shop.client, to_store, 100)?;
        let mut held = Held::open(&shop.client, to_store)?;
        table.row("no MeshConfig: all is carried", || {
            shop.await_carried(store, &ALL)?;
            shop.await_carried(web, &ALL)
        });
        let both = format!("  excludedCIDRs: [\"{}/32\", \"{}/128\"]\n", store.v4(), store.v6());
        lab.write_object(FILE, &config(&both))?;
        table.row("one pod's addresses", || {
            shop.await_carried(store, &[])?;
            shop.await_carried(web, &ALL)
        });
        table.row("a connection from before is carried on", || {
            held.speak()?;
            ensure!(held.row(lab.agent("a"))?.is_some(), "it has no row any more");
            Ok(String::new())
        });
        lab.write_object(FILE, &config("  excludedCIDRs: [\"::/0\"]\n"))?;
        table.row("::/0 is IPv6 alone", || {
            shop.await_carried(store, &ALL[..2])?;
            shop.await_carried(web, &ALL[..2])
        });
        lab.write_object(FILE, &config("  excludedPorts: [7001, \"7100-7200\"]\n"))?;
        table.row("a port, whatever the address; it wins over a captured peer", || {
            shop.await_carried(store, &[ALL[0], ALL[2]])?;
            shop.await_carried(web, &[ALL[0], ALL[2]])
        });
        lab.write_object(FILE, &config("  excludedPorts: [\"1-60000\"]\n"))?;
        table.row("more than there is room for: said, and what was excluded stays so", || {
            let log = lab.place().logs().join("agent-a.log");
            await_line(&log, &["60000 ports", "4096 are possible", "the exclusions from before stay"])?;
            shop.await_carried(store, &[ALL[0], ALL[2]])
        });
        let tally = load.stop()?;
        table.row("changes fail no connection", || tally.none_failed());
        lab.agent("a").kill();
        table.row("agent dead: excluded ports are reached, others refused", || {
            Held::open(&shop.client, SocketAddr::new(store.v4().into(), PORTS[1]))?;
            let refused = shop.client.connect(SocketAddr::new(store.v4().into(), PORTS[0]), PATIENCE)?;
            ensure!(refused.is_err(), "it connected");
            Ok(String::new())
        });
        lab.agent("a").launch()?;
        table.row("agent started again: excluded ports are reached all the while", || {
            let start = std::time::Instant::now();
            while !shop.is_carried(to_store).unwrap_or(false) {
                ensure!(start.elapsed() < PATIENCE, "the agent does not come back");
                Held::open(&shop.client, SocketAddr::new(store.v4().into(), PORTS[1]))?;
            }
            Ok(String::new())
        });
        let after = Hammer::start(&shop.client, to_store, 100)?;
        lab.remove_object(FILE)?;
        table.row("the MeshConfig is gone: all is carried again", || {
            shop.await_carried(store, &ALL)?;
            shop.await_carried(web, &ALL)
        });
        let tally = after.stop()?;
        table.row("that change fails no connection", || tally.none_failed());
        table.finish();
        Ok(())
    });
}
