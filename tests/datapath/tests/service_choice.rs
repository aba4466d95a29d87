//! Promise: for a Service's address Weft picks what kube-proxy would.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::services::{Written, announce, endpoint, leads_to, outcome, refused_for, row};
use lab::row::Table;
use lab::{Lab, Pod, Process};

const TEST: &str = "an_endpoint_is_chosen_as_kube_proxy_would";
const PORT: u16 = 7001;
const OTHER_PORT: u16 = 7002;
const HTTP: &str = "{name: http, port: 7001}";
const PORTS: &str = "ports: [{name: http, port: 80, targetPort: http}]";

#[test]
fn an_endpoint_is_chosen_as_kube_proxy_would() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(chosen);
}

/// A client on node a of zone east; servers `near` beside it and `far` on node b of zone west; all captured.
struct Stage<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    second: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
    _servers: Vec<Process>,
}

impl<'a> Stage<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |name: &str, node: &str| {
            lab.pod(&format!("shop/{name}")).node(node).service_account(name).label("app", name).start()
        };
        let stage = Self {
            lab,
            client: pod("client", "a")?,
            second: pod("second", "a")?,
            near: pod("near", "a")?,
            far: pod("far", "b")?,
            _servers: Vec::new(),
        };
        for (name, zone) in [("a", "east"), ("b", "west")] {
            let address = lab.node(name).v4();
            let object = format!(
                "apiVersion: v1\nkind: Node\n\
                 metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
            );
            // In place of the lab's own.
            lab.write_object(&format!("node-{name}.yaml"), &object)?;
        }
        for pod in [&stage.client, &stage.second, &stage.near, &stage.far] {
            lab.await_captured(pod)?;
        }
        lab.await_peers_tunnel(&stage.far)?;
        let mut servers = Vec::new();
        for (pod, name) in [(&stage.near, "near"), (&stage.far, "far")] {
            servers.push(announce(pod, PORT, name)?);
            servers.push(announce(pod, OTHER_PORT, &format!("{name} elsewhere"))?);
        }
        Ok(Self { _servers: servers, ..stage })
    }

    /// `shop/NAME` at `10.96.200.NUMBER` with one slice: `near` and `far` with these fields.
    fn both(&self, name: &str, number: u8, spec: &str, near: &str, far: &str) -> Result<SocketAddr> {
        let ends = [endpoint(self.near.v4(), near), endpoint(self.far.v4(), far)];
        let address = format!("10.96.200.{number}");
        Written::new(name, &format!("clusterIP: {address}, {PORTS}, {spec}"))
            .slice(HTTP, &ends)
            .put(self.lab)?;
        Ok(SocketAddr::new(address.parse()?, 80))
    }

    fn only_far(&self, name: &str, number: u8, spec: &str) -> Result<SocketAddr> {
        let address = format!("10.96.200.{number}");
        Written::new(name, &format!("clusterIP: {address}, {PORTS}, {spec}"))
            .slice(HTTP, &[endpoint(self.far.v4(), "nodeName: b")])
            .put(self.lab)?;
        Ok(SocketAddr::new(address.parse()?, 80))
    }
}

fn chosen(lab: &Lab) -> Result<()> {
    let stage = Stage::start(lab)?;
    let mut table = Table::new(TEST);
    affinity(&stage, &mut table);
    local(&stage, &mut table);
    hints(&stage, &mut table);
    readiness(&stage, &mut table);
    ports_and_families(&stage, &mut table);
    hairpin(&stage, &mut table);
    table.finish();
    Ok(())
}

fn affinity(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    table.row("ready endpoints in turn", || {
        let to = stage.both("both", 1, "", "", "")?;
        leads_to(client, to, &["near", "far"])
    });
    table.row("session affinity: a client stays with its endpoint", || {
        let to = stage.both("sticky", 2, "sessionAffinity: ClientIP", "", "")?;
        row(stage.lab.agent("a"), "sticky", |row| row["affinity_seconds"] == 10_800)?;
        let first = outcome(client, to)?;
        leads_to(client, to, &[&first])?;
        let other = outcome(&stage.second, to)?;
        ensure!(other != first, "the next client has the next turn, but both went to {first}");
        leads_to(&stage.second, to, &[&other])?;
        leads_to(client, to, &[&first])?;
        Ok(format!("one to {first}, the other to {other}"))
    });
    table.row("session affinity: an endpoint that is gone is chosen anew, and that stays", || {
        let to = stage.only_far("sticky", 2, "sessionAffinity: ClientIP")?;
        for pod in [client, &*stage.second] {
            leads_to(pod, to, &["far"])?;
        }
        stage.both("sticky", 2, "sessionAffinity: ClientIP", "", "")?;
        row(stage.lab.agent("a"), "sticky", |row| {
            row["endpoints"].as_array().is_some_and(|all| all.len() == 2)
        })?;
        for pod in [client, &*stage.second] {
            leads_to(pod, to, &["far"])?;
        }
        Ok("far, although near is back".into())
    });
    table.row("session affinity: forgotten after its timeout", || {
        let short = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}";
        let to = stage.both("short", 3, short, "", "")?;
        row(stage.lab.agent("a"), "short", |row| row["affinity_seconds"] == 1)?;
        let first = outcome(client, to)?;
        // Time itself is what is waited for; the next one has the next turn.
        std::thread::sleep(Duration::from_millis(1500));
        let then = outcome(client, to)?;
        ensure!(first != then, "{first} again after the timeout");
        Ok(format!("{first}, then {then}"))
    });
}

fn local(stage: &Stage<'_>, table: &mut Table) {
    const LOCAL: &str = "internalTrafficPolicy: Local";
    let client = &*stage.client;
    table.row("internalTrafficPolicy Local: the node's own endpoints alone", || {
        let to = stage.both("local", 10, LOCAL, "nodeName: a", "nodeName: b")?;
        leads_to(client, to, &["near"])
    });
    table.row(
        "internalTrafficPolicy Local: none here is refused by connect, for a reason of its own",
        || {
            let to = stage.only_far("elsewhere", 11, LOCAL)?;
            refused_for(stage.lab.agent("a"), client, to, "refused", "no_local_endpoint")
        },
    );
    table.row("internalTrafficPolicy Local: none anywhere is refused like any", || {
        Written::new("empty", &format!("clusterIP: 10.96.200.12, {PORTS}, {LOCAL}"))
            .slice(HTTP, &[])
            .put(stage.lab)?;
        let to = SocketAddr::new("10.96.200.12".parse()?, 80);
        refused_for(stage.lab.agent("a"), client, to, "refused", "no_endpoint")
    });
}

fn hints(stage: &Stage<'_>, table: &mut Table) {
    let (east, west) = ("hints: {forZones: [{name: east}]}", "hints: {forZones: [{name: west}]}");
    let (for_a, for_b) = ("hints: {forNodes: [{name: a}]}", "hints: {forNodes: [{name: b}]}");
    let rows: [(&str, &str, &str, &[&str]); 6] = [
        ("zones: the client's own", east, west, &["near"]),
        ("zones: the client's own, wherever the endpoint is", west, east, &["far"]),
        ("zones: one endpoint without a hint, none counts", east, "", &["near", "far"]),
        ("zones: none for the client's, none counts", west, west, &["near", "far"]),
        ("nodes: the client's own", for_b, for_a, &["far"]),
        (
            "nodes before zones",
            "hints: {forNodes: [{name: a}], forZones: [{name: west}]}",
            "hints: {forNodes: [{name: b}], forZones: [{name: east}]}",
            &["near"],
        ),
    ];
    for (number, (name, near, far, wanted)) in (20..).zip(rows) {
        table.row(&format!("hints, {name}"), || {
            let to = stage.both(&format!("hints-{number}"), number, "", near, far)?;
            leads_to(&stage.client, to, wanted)
        });
    }
}

fn readiness(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    let not_ready = "conditions: {ready: false, serving: false}";
    let draining = "conditions: {ready: false, serving: true, terminating: true}";
    let gone = "conditions: {ready: false, serving: false, terminating: true}";
    let rows: [(&str, &str, &str, &[&str]); 4] = [
        ("not ready: left out", not_ready, "", &["far"]),
        ("terminating and serving: left out while another is ready", draining, "", &["far"]),
        ("terminating and serving: chosen when none is ready", draining, not_ready, &["near"]),
        ("neither ready nor serving: refused", not_ready, gone, &["refused"]),
    ];
    for (number, (name, near, far, wanted)) in (40..).zip(rows) {
        table.row(name, || {
            let to = stage.both(&format!("ready-{number}"), number, "", near, far)?;
            leads_to(client, to, wanted)
        });
    }
    table.row("publishNotReadyAddresses: whether ready or not", || {
        let lab = stage.lab;
        let pod =
            lab.pod("shop/unready").node("b").service_account("unready").label("app", "unready").unready();
        let pod = pod.start()?;
        lab.await_captured(&pod)?;
        lab.await_peers_tunnel(&pod)?;
        let _server = announce(&pod, PORT, "unready")?;
        let spec = "selector: {app: unready}, ports: [{port: 80, targetPort: 7001}]";
        Written::new("unready", &format!("clusterIP: 10.96.200.50, {spec}")).put(lab)?;
        let to = SocketAddr::new("10.96.200.50".parse()?, 80);
        leads_to(client, to, &["refused"])?;
        Written::new("unready", &format!("clusterIP: 10.96.200.50, publishNotReadyAddresses: true, {spec}"))
            .put(lab)?;
        leads_to(client, to, &["unready"])?;
        // Of a headless Service, by its own address, as DNS tells it.
        Written::new("headless", &format!("clusterIP: None, {spec}")).put(lab)?;
        row(lab.agent("a"), "headless", |row| row["addresses"].as_array().is_some_and(Vec::is_empty))?;
        leads_to(client, SocketAddr::new(pod.v4().into(), PORT), &["unready"])?;
        leads_to(client, SocketAddr::new(pod.v6().into(), PORT), &["unready"])?;
        pod.delete()?;
        Ok("and by its own address".into())
    });
}

fn ports_and_families(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    table.row("each slice has target ports of its own", || {
        Written::new("named", &format!("clusterIP: 10.96.200.60, {PORTS}"))
            .slice(HTTP, &[endpoint(stage.near.v4(), "")])
            .slice("{name: http, port: 7002}", &[endpoint(stage.far.v4(), "")])
            .put(stage.lab)?;
        leads_to(client, SocketAddr::new("10.96.200.60".parse()?, 80), &["near", "far elsewhere"])
    });
    table.row("each port has a target port of its own", || {
        let spec = "selector: {app: far}, ports: [{port: 80, targetPort: 7002}, {name: b, port: 81, targetPort: 7001}]";
        Written::new("numbers", &format!("clusterIP: 10.96.200.61, {spec}")).put(stage.lab)?;
        let address: IpAddr = "10.96.200.61".parse()?;
        leads_to(client, SocketAddr::new(address, 80), &["far elsewhere"])?;
        leads_to(client, SocketAddr::new(address, 81), &["far"])
    });
    table.row("no such port, no endpoint: refused by connect", || {
        let to = stage.both("known", 62, "", "", "")?;
        leads_to(client, to, &["near", "far"])?;
        refused_for(
            stage.lab.agent("a"),
            client,
            SocketAddr::new(to.ip(), 81),
            "refused",
            "no_service_port",
        )?;
        Written::new("nobody", &format!("clusterIP: 10.96.200.63, {PORTS}"))
            .slice(HTTP, &[])
            .put(stage.lab)?;
        let nobody = SocketAddr::new("10.96.200.63".parse()?, 80);
        refused_for(stage.lab.agent("a"), client, nobody, "refused", "no_endpoint")
    });
    table.row("dual stack: endpoints of the family that was dialled", || {
        let v6 = "fd00:96::c801";
        Written::new(
            "dual",
            &format!("clusterIP: 10.96.200.64, clusterIPs: [10.96.200.64, '{v6}'], {PORTS}"),
        )
        .slice(HTTP, &[endpoint(stage.near.v4(), "")])
        .slice(HTTP, &[endpoint(stage.far.v6(), "")])
        .put(stage.lab)?;
        leads_to(client, SocketAddr::new("10.96.200.64".parse()?, 80), &["near"])?;
        leads_to(client, SocketAddr::new("::ffff:10.96.200.64".parse()?, 80), &["near"])?;
        leads_to(client, SocketAddr::new(v6.parse()?, 80), &["far"])
    });
    table.row("dual stack: no endpoint of the family is refused", || {
        let v6 = "fd00:96::c802";
        Written::new(
            "single",
            &format!("clusterIP: 10.96.200.65, clusterIPs: [10.96.200.65, '{v6}'], {PORTS}"),
        )
        .slice(HTTP, &[endpoint(stage.near.v4(), "")])
        .put(stage.lab)?;
        leads_to(client, SocketAddr::new("10.96.200.65".parse()?, 80), &["near"])?;
        leads_to(client, SocketAddr::new(v6.parse()?, 80), &["refused"])
    });
}

fn hairpin(stage: &Stage<'_>, table: &mut Table) {
    table.row("a pod that dials its own Service may be chosen itself", || {
        let to = stage.both("both", 1, "", "", "")?;
        leads_to(&stage.near, to, &["near", "far"]).context("near among others")?;
        let address: IpAddr = "10.96.200.70".parse()?;
        Written::new("alone", &format!("clusterIP: {address}, {PORTS}"))
            .slice(HTTP, &[endpoint(stage.near.v4(), "")])
            .put(stage.lab)?;
        leads_to(&stage.near, SocketAddr::new(address, 80), &["near"]).context("near alone")
    });
}
