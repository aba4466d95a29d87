//! Promise: the root is exchanged with traffic flowing, by the documented steps, and no connection is lost and none fails.
//!
//! ```text
//!   trusted:   old     old, new     new, old     new
//!   signs:     old     old          new          new
//!              ──── a steady load, and a connection that is held, all the while ────▶
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::hammer::Hammer;
use datapath::held::Held;
use datapath::words::await_line;
use lab::row::Table;
use lab::{Agent, Lab, Pod, eventually, programs};
use serde_json::Value;

/// Agents look at their file every two seconds and spread renewals over ten.
const NOTICE: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;

struct Running<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    web: Arc<Pod>,
    _echo: programs::Server,
    probes: std::cell::Cell<u32>,
}

impl<'a> Running<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let echo = programs::peer(&web, "echo", PORT, &[])?;
        lab.await_captured(&client)?;
        lab.await_captured(&web)?;
        lab.await_peers_tunnel(&web)?;
        Ok(Self { lab, client, web, _echo: echo, probes: std::cell::Cell::new(0) })
    }

    fn web(&self) -> SocketAddr {
        SocketAddr::new(self.web.v4().into(), PORT)
    }

    /// A pod that was not there before has a certificate of now, and no tunnel yet: its handshake is a new one.
    fn new_pod_connects(&self) -> Result<()> {
        let number = self.probes.replace(self.probes.get() + 1);
        let name = format!("shop/probe-{number}");
        let probe = self.lab.pod(&name).node("a").service_account(&format!("probe-{number}")).start()?;
        self.lab.await_captured(&probe)?;
        Held::open(&probe, self.web())?.ensure_mtls(self.lab.agent("a"))
    }

    fn trusts(&self, agent: &Agent) -> Result<Vec<String>> {
        let bundle = agent.admin("/v1/roots")?;
        let roots = bundle["roots"].as_array().context("roots")?;
        Ok(roots.iter().filter_map(|root| root["subject"].as_str()).map(str::to_owned).collect())
    }

    /// Waits until every agent trusts exactly these, in this order.
    fn await_trust(&self, subjects: &[&str]) -> Result<String> {
        for agent in self.lab.agents() {
            eventually(NOTICE, || {
                let trusted = self.trusts(agent).map_err(|error| format!("{error:#}"))?;
                if trusted == subjects { Ok(()) } else { Err(format!("{}: {trusted:?}", agent.node())) }
            })?;
            let metrics = agent.metrics()?;
            let shown =
                metrics.lines().filter(|line| line.starts_with("weft_root_expiry_timestamp_seconds{"));
            let shown = shown.count();
            ensure!(shown == subjects.len(), "{}: its metrics know {shown} of {subjects:?}", agent.node());
        }
        Ok(format!("both nodes trust {subjects:?}"))
    }

    /// Waits until every certificate of every node is signed by this one.
    fn await_signed(&self, issuer: &str) -> Result<String> {
        let mut count = 0;
        for agent in self.lab.agents() {
            count += eventually(NOTICE, || {
                let certs = agent.certs().map_err(|error| format!("{error:#}"))?;
                let others: Vec<&Value> = certs.iter().filter(|cert| cert["issuer"] != issuer).collect();
                if others.is_empty() { Ok(certs.len()) } else { Err(format!("{}: {others:?}", agent.node())) }
            })?;
        }
        Ok(format!("{count} certificates by {issuer}"))
    }
}

/// Where the controller keeps its authority.
struct Authority {
    root: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn write(&self, roots: &[&str]) -> Result<()> {
        replace(&self.root, &roots.concat(), 0o644)
    }

    fn switch(&self, key: &str, roots: &[&str]) -> Result<()> {
        replace(&self.key, key, 0o600)?;
        self.write(roots)
    }
}

/// In one step, as an editor does.
fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let new = path.with_extension("edited");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    Ok(fs::rename(&new, path)?)
}

/// A root and its key, PEM.
fn make_root(lab: &Lab, name: &str) -> Result<(String, String)> {
    let node = lab.node("a");
    let file = |kind: &str| node.directory().join(format!("{name}.{kind}")).display().to_string();
    let (cert, key, subject) = (file("pem"), file("key"), format!("/CN={name}"));
    let mut line =
        vec!["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    line.extend(["-keyout", &key, "-out", &cert, "-days", "30", "-subj", &subject]);
    node.command(line)?.run()?.ok()?;
    Ok((fs::read_to_string(cert)?, fs::read_to_string(key)?))
}

#[test]
fn the_root_is_exchanged_under_load_and_no_connection_is_lost() {
    let mut table = Table::new("the root is exchanged");
    Lab::builder().node("a").node("b").run(|lab| rotate(&mut table, lab));
    table.finish();
}

fn rotate(table: &mut Table, lab: &Lab) -> Result<()> {
    let mesh = Running::start(lab)?;
    let root = lab.controller().root_cert();
    let authority = Authority { key: root.with_file_name("ca.key"), root };
    let old = fs::read_to_string(&authority.root)?;
    let (new, key) = make_root(lab, "new root")?;
    let subject = mesh.trusts(lab.agent("a"))?.first().cloned().context("a root")?;
    let mut held = Held::open(&mesh.client, mesh.web())?;
    let load = Hammer::start(&mesh.client, mesh.web(), 100)?;
    mesh.await_signed(&subject)?;

    table.row("a root that cannot be read changes nothing", || {
        authority.write(&[&old, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])?;
        await_line(&lab.place().logs().join("controller.log"), &["last good one stays in force"])?;
        await_line(&lab.place().logs().join("agent-a.log"), &["last good ones stay in force"])?;
        mesh.new_pod_connects()?;
        authority.write(&[&old])?;
        mesh.await_trust(&[&subject])
    });
    table.row("1: the new root is trusted beside the old one", || {
        authority.write(&[&old, &new])?;
        let trusted = mesh.await_trust(&[&subject, "CN=new root"])?;
        mesh.new_pod_connects()?;
        mesh.await_signed(&subject)?;
        held.speak()?;
        Ok(trusted)
    });
    table.row("2: the new root signs, and certificates of both are good", || {
        authority.switch(&key, &[&new, &old])?;
        mesh.new_pod_connects()?;
        mesh.await_trust(&["CN=new root", &subject])?;
        mesh.new_pod_connects()?;
        held.speak()?;
        let signed = mesh.await_signed("CN=new root")?;
        mesh.new_pod_connects()?;
        Ok(signed)
    });
    table.row("3: the old root is trusted no longer", || {
        authority.write(&[&new])?;
        let trusted = mesh.await_trust(&["CN=new root"])?;
        mesh.new_pod_connects()?;
        held.speak()?;
        Ok(trusted)
    });
    table.row("an agent that starts now finds its controller and its peers by the new root alone", || {
        let tally = load.stop()?.none_failed()?;
        drop(held);
        lab.agent("b").restart()?;
        lab.controller().restart()?;
        lab.agent("a").restart()?;
        eventually(NOTICE, || mesh.new_pod_connects().map_err(|error| format!("{error:#}")))?;
        ensure!(fs::read_to_string(&authority.root)? == new, "the root was written over");
        Ok(format!("under load: {tally}"))
    });
    Ok(())
}
