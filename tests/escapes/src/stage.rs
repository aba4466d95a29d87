//! Two nodes, and who is on them.
//!
//! ```text
//!  node a                                node b
//!  shop/client     (captured, escapes)   shop/server (captured, has the door)
//!  shop/neighbour  (captured)            yard/store  (outside the mesh)
//!  yard/stranger   (outside the mesh)
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Agent, Capture, Lab, LabBuilder, Pod, eventually};
use serde_json::Value;

use crate::attempt::{Attempt, SECRET};
use crate::door::{Door, PATIENCE};

/// Where the server listens.
pub const PORT: u16 = 7000;

/// Where redirected connects arrive at the pod's own address, in nft's words.
pub const CAPTURE_PORTS: &str = "{ 15001, 15104-15135 }";

/// The cast and the wire between the nodes, which is captured from the start.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Its lab.
    pub lab: &'a Lab,
    /// Captured, on node a: who tries to escape.
    pub client: Arc<Pod>,
    /// Captured, on node a.
    pub neighbour: Arc<Pod>,
    /// Captured, on node b.
    pub server: Arc<Pod>,
    /// Outside the mesh, on node a.
    pub stranger: Arc<Pod>,
    /// Outside the mesh, on node b.
    pub store: Arc<Pod>,
    /// The server's.
    pub door: Door,
    wire: Capture,
}

/// Runs rows on a stage in a lab of its own, and judges the wire last.
///
/// # Panics
/// If a row fails, the lab does, or something could be read on the wire.
pub fn run(test: &str, rows: impl FnOnce(&Stage<'_>, &mut Table) -> Result<()>) {
    if !lab::ready(test) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(test);
        let stage = Stage::set(lab)?;
        rows(&stage, &mut table)?;
        let Stage { client, neighbour, server, wire, .. } = stage;
        table.row("the wire: nothing that a captured pod said, and no connection of its own", || {
            judge_wire(wire, &[&client, &neighbour], &server)
        });
        table.finish();
        Ok(())
    });
}

/// Runs rows that show what the mesh does not do, in a lab of this kind with nodes a and b. The wire is the rows' business.
///
/// # Panics
/// If a row fails, or the lab does.
pub fn document(test: &str, lab: LabBuilder, rows: impl FnOnce(&Stage<'_>, &mut Table) -> Result<()>) {
    if !lab::ready(test) {
        return;
    }
    lab.run(|lab| {
        let mut table = Table::new(test);
        rows(&Stage::set(lab)?, &mut table)?;
        table.finish();
        Ok(())
    });
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |key: &str, node: &str| {
            let name = key.rsplit('/').next().unwrap_or(key);
            lab.pod(key).node(node).service_account(name).label("app", name).start()
        };
        let (client, neighbour) = (pod("shop/client", "a")?, pod("shop/neighbour", "a")?);
        let server = pod("shop/server", "b")?;
        let (stranger, store) = (pod("yard/stranger", "a")?, pod("yard/store", "b")?);
        for pod in [&client, &neighbour, &server] {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        for pod in [&stranger, &store] {
            lab.await_excluded(pod)?;
            lab.await_peers_see(pod, "none")?;
        }
        let door = Door::open(&server, PORT)?;
        let wire = lab.capture_wire("b")?;
        Ok(Self { lab, client, neighbour, server, stranger, store, door, wire })
    }

    /// The agent of the node where the attempts are made.
    pub fn near(&self) -> &Agent {
        self.lab.agent("a")
    }

    /// The agent that the server's connections come to.
    pub fn far(&self) -> &Agent {
        self.lab.agent("b")
    }

    /// An attempt that came through the mesh after all: the far agent takes it for `who`, under mutual TLS.
    pub fn carried(&self, attempt: Attempt, who: &Pod) -> Result<String> {
        let guest = self.door.guest_saying(&attempt.said, PATIENCE).with_context(|| attempt.report())?;
        let row = guest.row(self.far())?;
        let own = identity(who);
        let well =
            row["security"] == "mtls" && row["path"] == "tunnel" && row["src"]["identity"] == own.as_str();
        ensure!(well, "not as {own}: {row}");
        ensure!(who.addresses().contains(&guest.from.ip()), "from {}", guest.from);
        guest.answer("heard")?;
        let end = attempt.end()?;
        ensure!(end.heard == "heard", "{end:?}");
        Ok(format!("as {own}"))
    }

    /// An attempt that may be carried or come to nothing, but is nobody else's.
    pub fn itself_or_nothing(&self, attempt: Attempt, who: &Pod) -> Result<String> {
        let Ok(guest) = self.door.guest_saying(&attempt.said, Duration::from_secs(3)) else {
            return self.fruitless(attempt);
        };
        let row = guest.row(self.far())?;
        ensure!(row["security"] == "mtls" && row["src"]["identity"] == identity(who).as_str(), "{row}");
        guest.answer("heard")?;
        attempt.end()?;
        Ok(format!("as {}", identity(who)))
    }

    /// An attempt that arrived in plain text, as anybody's from outside the mesh: the far agent knows of no identity.
    pub fn plain(&self, attempt: Attempt, from: IpAddr) -> Result<String> {
        let guest = self.door.guest_saying(&attempt.said, PATIENCE).with_context(|| attempt.report())?;
        let row = guest.row(self.far())?;
        ensure!(row["security"] == "plaintext" && row["src"]["identity"] == Value::Null, "{row}");
        ensure!(guest.from.ip() == from, "from {}", guest.from);
        guest.answer("heard")?;
        let end = attempt.end()?;
        ensure!(end.heard == "heard", "{end:?}");
        Ok("in plain text, without identity".to_owned())
    }

    /// An attempt that the node's kernel refuses and counts under this reason, and that nobody hears of.
    pub fn refused(&self, attempt: impl FnOnce() -> Result<Attempt>, reason: &str) -> Result<String> {
        let before = refusals(self.near(), reason)?;
        let said = attempt()?.fails("ECONNREFUSED")?;
        let counted = refusals(self.near(), reason)?.saturating_sub(before);
        ensure!(counted > 0, "{said}, but not counted as {reason}");
        self.door.nobody()?;
        Ok(format!("{said}, {reason}"))
    }

    /// An attempt that comes to nothing, whatever it is told, and that nobody hears of.
    pub fn fruitless(&self, attempt: Attempt) -> Result<String> {
        let said = attempt.said.clone();
        let end = attempt.gets_nothing()?;
        let heard = self.door.guest_saying(&said, Duration::ZERO);
        ensure!(heard.is_err(), "the server heard it");
        Ok(end)
    }

    /// A command in the client's namespace by a root of that pod (`ip`, `nft`, `tc`).
    pub fn sh(&self, script: &str) -> Result<String> {
        shell(&self.client, script)
    }
}

/// Runs a shell's line in a pod.
pub fn shell(pod: &Pod, script: &str) -> Result<String> {
    Ok(pod.exec(["sh", "-ec", script])?.ok()?.text())
}

/// How many connections the agent's kernel has refused for a reason.
pub fn refusals(agent: &Agent, reason: &str) -> Result<u64> {
    Ok(agent.status()?["kernel"]["refused"][reason].as_u64().unwrap_or(0))
}

/// The identity that a pod has to have.
pub fn identity(pod: &Pod) -> String {
    format!("spiffe://{}/ns/{}/sa/{}", lab::TRUST_DOMAIN, pod.namespace(), pod.service_account())
}

/// Waits until an agent has nothing open any more.
pub fn quiet(agent: &Agent) -> Result<()> {
    eventually(Duration::from_secs(10), || {
        let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
        if rows.is_empty() { Ok(()) } else { Err(Value::from(rows).to_string()) }
    })
}

/// Nothing that was said can be read, and whatever these pods began with the server was a tunnel.
fn judge_wire(wire: Capture, captured: &[&Arc<Pod>], server: &Pod) -> Result<String> {
    let pcap = wire.stop()?;
    let read = pcap.count_plaintext(SECRET.as_bytes());
    ensure!(read == 0, "{read} bytes of secrets in plain text");
    let own: Vec<IpAddr> = captured.iter().flat_map(|pod| pod.addresses()).collect();
    let served = server.addresses();
    let begun = |segment: &&lab::pcap::Segment| {
        segment.is_syn() && own.contains(&segment.src.ip()) && served.contains(&segment.dst.ip())
    };
    let (tunnels, plain): (Vec<SocketAddr>, Vec<SocketAddr>) =
        pcap.segments().iter().filter(begun).map(|segment| segment.dst).partition(|to| to.port() == 15008);
    ensure!(plain.is_empty(), "SYNs in plain text to {plain:?}");
    Ok(format!("{} packets, {} SYNs to 15008, 0 to others", pcap.packets(), tunnels.len()))
}
