//! Promise: which addresses are a Service's, which are left as they are, and that what is left leads to no captured pod in
//! plain text.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::services::{Written, announce, announce_on_node, endpoint, leads_to, refused_for, row};
use lab::row::Table;
use lab::{Lab, Pod, Process};
use serde_json::Value;

const TEST: &str = "a_services_addresses_are_those_that_kube_proxy_serves";
const PORT: u16 = 7001;
const HTTP: &str = "{name: http, port: 7001}";
const PORTS: &str = "ports: [{name: http, port: 80}]";
/// What a load balancer outside of the cluster, another proxy and plain hosts have: on node b, by a route from node a.
const OUTSIDE: [&str; 5] = ["198.51.100.12", "192.0.2.20", "192.0.2.30", "192.0.2.31", "192.0.2.40"];

#[test]
fn a_services_addresses_are_those_that_kube_proxy_serves() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(addresses);
}

/// A client on node a, a server on node b, both captured, and who is outside on node b.
struct Stage<'a> {
    lab: &'a Lab,
    client: Arc<Pod>,
    second: Arc<Pod>,
    server: Arc<Pod>,
    _servers: Vec<Process>,
}

impl<'a> Stage<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |name: &str, node: &str| {
            lab.pod(&format!("shop/{name}")).node(node).service_account(name).label("app", name).start()
        };
        let (client, second, server) = (pod("client", "a")?, pod("second", "a")?, pod("server", "b")?);
        for pod in [&client, &second, &server] {
            lab.await_captured(pod)?;
        }
        lab.await_peers_tunnel(&server)?;
        let (a, b) = (lab.node("a"), lab.node("b"));
        let mut servers = vec![announce(&server, PORT, "server")?];
        let via = b.v4().to_string();
        for address in OUTSIDE {
            b.command(["ip", "address", "add", &format!("{address}/32"), "dev", "lo"])?.run()?.ok()?;
            a.command(["ip", "route", "add", address, "via", &via])?.run()?.ok()?;
        }
        for (address, port, name) in [
            ("198.51.100.12", 80, "balancer"),
            ("192.0.2.20", 80, "not the service"),
            ("192.0.2.20", 81, "host"),
            ("192.0.2.30", 80, "another proxy"),
            ("192.0.2.31", 80, "another proxy"),
            ("192.0.2.40", 5432, "database"),
        ] {
            servers.push(announce_on_node(&b, SocketAddr::new(address.parse()?, port), name)?);
        }
        Ok(Self { lab, client, second, server, _servers: servers })
    }

    fn behind(&self, written: Written) -> Result<()> {
        written.slice(HTTP, &[endpoint(self.server.v4(), "")]).put_known(self.lab, self.lab.agent("a"))
    }
}

fn at(address: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address.parse()?, port))
}

fn addresses(lab: &Lab) -> Result<()> {
    let stage = Stage::start(lab)?;
    let mut table = Table::new(TEST);
    outer(&stage, &mut table);
    ranges(&stage, &mut table);
    left(&stage, &mut table);
    another_proxy(&stage, &mut table);
    outside(&stage, &mut table);
    told(&stage, &mut table);
    table.finish();
    Ok(())
}

fn outer(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    table.row("load balancer's address, ipMode VIP or unset", || {
        let status = "loadBalancer: {ingress: [{ip: 198.51.100.10}, {ip: 198.51.100.11, ipMode: VIP}]}";
        let spec =
            format!("type: LoadBalancer, clusterIP: 10.96.201.1, externalTrafficPolicy: Local, {PORTS}");
        stage.behind(Written::labelled("balanced", "", &spec, status))?;
        leads_to(client, at("198.51.100.10", 80)?, &["server"])?;
        leads_to(client, at("::ffff:198.51.100.11", 80)?, &["server"])?;
        leads_to(client, at("10.96.201.1", 80)?, &["server"])
    });
    table.row("load balancer's address without an endpoint: refused by connect", || {
        let status = "loadBalancer: {ingress: [{ip: 198.51.100.13}]}";
        let spec = format!("type: LoadBalancer, clusterIP: 10.96.201.2, {PORTS}");
        Written::labelled("idle", "", &spec, status)
            .slice(HTTP, &[])
            .put_known(stage.lab, stage.lab.agent("a"))?;
        refused_for(stage.lab.agent("a"), client, at("198.51.100.13", 80)?, "refused", "no_endpoint")
    });
    table.row("external IP, and another port of it that is somebody else's", || {
        let spec = format!("clusterIP: 10.96.201.3, externalIPs: [192.0.2.20], {PORTS}");
        leads_to(client, at("192.0.2.20", 80)?, &["not the service"])?;
        stage.behind(Written::new("external", &spec))?;
        leads_to(client, at("192.0.2.20", 80)?, &["server"])?;
        leads_to(client, at("192.0.2.20", 81)?, &["host"])
    });
    table.row("internalTrafficPolicy Local is not about external addresses", || {
        let spec = format!(
            "clusterIP: 10.96.201.4, externalIPs: [192.0.2.21], internalTrafficPolicy: Local, {PORTS}"
        );
        stage.behind(Written::new("inward", &spec))?;
        leads_to(client, at("192.0.2.21", 80)?, &["server"])?;
        leads_to(client, at("10.96.201.4", 80)?, &["refused"])
    });
    table.row("an external IP that is a pod's address stays the pod's", || {
        let _second = announce(&stage.second, 80, "second")?;
        let spec = format!("clusterIP: 10.96.201.5, externalIPs: [{}], {PORTS}", stage.second.v4());
        stage.behind(Written::new("greedy", &spec))?;
        leads_to(client, at("10.96.201.5", 80)?, &["server"])?;
        leads_to(client, SocketAddr::new(stage.second.v4().into(), 80), &["second"])
    });
}

fn ranges(stage: &Stage<'_>, table: &mut Table) {
    table.row("loadBalancerSourceRanges, by the client's own address", || {
        let status = "loadBalancer: {ingress: [{ip: 198.51.100.14}]}";
        let spec = format!(
            "type: LoadBalancer, clusterIP: 10.96.201.6, externalIPs: [192.0.2.22], \
             loadBalancerSourceRanges: [{}/32], {PORTS}",
            stage.second.v4()
        );
        stage.behind(Written::labelled("ranged", "", &spec, status))?;
        leads_to(&stage.second, at("198.51.100.14", 80)?, &["server"])?;
        leads_to(&stage.client, at("10.96.201.6", 80)?, &["server"])?;
        leads_to(&stage.client, at("192.0.2.22", 80)?, &["server"])?;
        refused_for(stage.lab.agent("a"), &stage.client, at("198.51.100.14", 80)?, "reset", "source_range")
    });
}

fn left(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    table.row("load balancer's own address (ipMode Proxy): left to it", || {
        let status = "loadBalancer: {ingress: [{ip: 198.51.100.12, ipMode: Proxy}]}";
        let spec = format!("type: LoadBalancer, clusterIP: 10.96.201.10, {PORTS}");
        stage.behind(Written::labelled("proxied", "", &spec, status))?;
        let row = row(stage.lab.agent("a"), "proxied", |_| true)?;
        ensure!(row["untouched"] == Value::from(vec!["proxied/198.51.100.12"]), "{row}");
        leads_to(client, at("10.96.201.10", 80)?, &["server"])?;
        leads_to(client, at("198.51.100.12", 80)?, &["balancer"])
    });
    table.row("node ports: left to kube-proxy", || {
        let node = stage.lab.node("b");
        let to = SocketAddr::new(node.v4().into(), 30080);
        let _node_port = announce_on_node(&node, to, "node port")?;
        let ports = "ports: [{name: http, port: 80, nodePort: 30080}]";
        stage.behind(Written::new("noded", &format!("type: NodePort, clusterIP: 10.96.201.11, {ports}")))?;
        let row = row(stage.lab.agent("a"), "noded", |_| true)?;
        ensure!(row["untouched"] == Value::from(vec!["node-port/30080"]), "{row}");
        leads_to(client, at("10.96.201.11", 80)?, &["server"])?;
        leads_to(client, to, &["node port"])
    });
    table.row("UDP and SCTP: untouched", || {
        let ports = "ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, \
                     {name: sctp, port: 9, protocol: SCTP}]";
        stage.behind(Written::new("mixed", &format!("clusterIP: 10.96.201.12, {ports}")))?;
        let row = row(stage.lab.agent("a"), "mixed", |_| true)?;
        ensure!(row["untouched"] == Value::from(vec!["udp/53", "sctp/9"]), "{row}");
        leads_to(client, at("10.96.201.12", 80)?, &["server"])?;
        refused_for(stage.lab.agent("a"), client, at("10.96.201.12", 53)?, "refused", "no_service_port")?;
        datagram(client, &stage.server)
    });
    table.row("ExternalName: an alias, with no effect", || {
        let name = stage.server.v4();
        Written::new("alias", &format!("type: ExternalName, externalName: '{name}', {PORTS}"))
            .put(stage.lab)?;
        // Written after it, so the agent has heard of both.
        stage.behind(Written::new("after", &format!("clusterIP: 10.96.201.13, {PORTS}")))?;
        row(stage.lab.agent("a"), "after", |_| true)?;
        let all = stage.lab.agent("a").admin("/v1/services")?;
        let known = all.as_array().is_some_and(|all| all.iter().any(|row| row["name"] == "alias"));
        ensure!(!known, "the alias is a Service: {all}");
        leads_to(client, SocketAddr::new(name.into(), PORT), &["server"])
    });
}

/// One datagram from pod to pod.
fn datagram(from: &Pod, to: &Pod) -> Result<String> {
    let listener = to.netns_thread(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)))??;
    listener.set_read_timeout(Some(Duration::from_secs(10)))?;
    let script = format!("echo heard >/dev/udp/{}/5353", to.v4());
    from.exec(["bash", "-c", &script])?.ok()?;
    let mut heard = [0; 16];
    let (count, sender) = listener.recv_from(&mut heard).context("wait for a datagram")?;
    ensure!(&heard[..count] == b"heard\n" && sender.ip() == IpAddr::from(from.v4()), "from {sender}");
    Ok(format!("a datagram from {}", sender.ip()))
}

fn another_proxy(stage: &Stage<'_>, table: &mut Table) {
    const THEIRS: &str = "service.kubernetes.io/service-proxy-name: somebody";
    let client = &*stage.client;
    let theirs = |name: &str, address: &str, endpoint: String| {
        Written::labelled(name, THEIRS, &format!("clusterIP: {address}, {PORTS}"), "")
            .slice(HTTP, &[endpoint])
            .put(stage.lab)
    };
    table.row("a Service of another proxy: its address is dialled as it is", || {
        theirs("theirs", "192.0.2.30", endpoint("192.0.2.99".parse::<IpAddr>()?, ""))?;
        let row = row(stage.lab.agent("a"), "theirs", |row| row["other_proxy"] == "somebody")?;
        leads_to(client, at("192.0.2.30", 80)?, &["another proxy"])?;
        Ok(format!("other_proxy {}", row["other_proxy"]))
    });
    table.row("a Service of another proxy that leads into the mesh: refused, never plain text", || {
        let not_ready = "conditions: {ready: false}";
        theirs("captured", "192.0.2.31", endpoint(stage.server.v4(), not_ready))?;
        refused_for(stage.lab.agent("a"), client, at("192.0.2.31", 80)?, "reset", "other_proxy")
    });
    table.row("an endpoint that is a Service's address: refused, never plain text", || {
        Written::new("looped", &format!("clusterIP: 10.96.201.20, {PORTS}"))
            .slice("{name: http, port: 80}", &[endpoint("10.96.201.1".parse::<IpAddr>()?, "")])
            .put_known(stage.lab, stage.lab.agent("a"))?;
        refused_for(stage.lab.agent("a"), client, at("10.96.201.20", 80)?, "reset", "service_loop")
    });
}

fn outside(stage: &Stage<'_>, table: &mut Table) {
    let client = &*stage.client;
    table.row("endpoints that are no pods: a database, the kubernetes Service", || {
        Written::new("db", "clusterIP: 10.96.201.30, ports: [{name: sql, port: 5432}]")
            .slice("{name: sql, port: 5432}", &[endpoint("192.0.2.40".parse::<IpAddr>()?, "")])
            .put_known(stage.lab, stage.lab.agent("a"))?;
        leads_to(client, at("10.96.201.30", 5432)?, &["database"])?;
        let node = stage.lab.node("b");
        let server = SocketAddr::new(node.v4().into(), 6443);
        let _server = announce_on_node(&node, server, "API server")?;
        Written::new(
            "kubernetes",
            "clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]",
        )
        .slice("{name: https, port: 6443}", &[endpoint(node.v4(), "")])
        .put(stage.lab)?;
        leads_to(client, at("10.96.0.1", 443)?, &["API server"])
    });
    table.row("endpoints on the host's network", || {
        let node = stage.lab.node("b");
        let to = SocketAddr::new(node.v4().into(), 9100);
        let _exporter = announce_on_node(&node, to, "exporter")?;
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: exporter, namespace: shop, uid: e1, labels: {{app: exporter}}}}\n\
             spec: {{nodeName: b, hostNetwork: true, containers: [{{name: main, image: lab}}]}}\n\
             status: {{phase: Running, podIP: {}, conditions: [{{type: Ready, status: 'True'}}]}}\n",
            node.v4()
        );
        stage.lab.write_object("exporter.yaml", &pod)?;
        let spec = "clusterIP: 10.96.201.31, selector: {app: exporter}, ports: [{port: 80, targetPort: 9100}]";
        Written::new("exporter", spec).put(stage.lab)?;
        leads_to(client, at("10.96.201.31", 80)?, &["exporter"])
    });
    table.row("captured and outside endpoints behind one Service", || {
        Written::new("blend", "clusterIP: 10.96.201.32, ports: [{name: x, port: 80}]")
            .slice("{name: x, port: 7001}", &[endpoint(stage.server.v4(), "")])
            .slice("{name: x, port: 5432}", &[endpoint("192.0.2.40".parse::<IpAddr>()?, "")])
            .put_known(stage.lab, stage.lab.agent("a"))?;
        leads_to(client, at("10.96.201.32", 80)?, &["server", "database"])
    });
}

fn told(stage: &Stage<'_>, table: &mut Table) {
    table.row("meshctl services says what is left", || {
        let socket = stage.lab.agent("a").admin_socket();
        let run = |more: &[&str]| -> Result<String> {
            let mut command = Command::new(lab::binary("meshctl")?);
            command.env_clear().arg("--socket").arg(socket).args(["services"]).args(more);
            let output = command.output().context("run meshctl")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let table = run(&[])?;
        let line = |name: &str, words: &[&str]| -> Result<()> {
            let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
            let line = line.with_context(|| format!("no line for {name} in\n{table}"))?;
            ensure!(words.iter().all(|word| line.contains(word)), "{words:?} are not all in {line:?}");
            Ok(())
        };
        ensure!(table.lines().next().is_some_and(|head| head.contains("UNTOUCHED")), "{table}");
        line("mixed", &["udp/53, sctp/9"])?;
        line("noded", &["node-port/30080"])?;
        line("proxied", &["proxied/198.51.100.12"])?;
        line("theirs", &["all (proxy somebody)"])?;
        line("ranged", &["10.96.201.6, 192.0.2.22, 198.51.100.14", "ranges"])?;
        line("inward", &["local"])?;
        let rows: Value = serde_json::from_str(&run(&["-o", "json"])?)?;
        let all = rows.as_array().context("a list")?;
        let mixed = all.iter().find(|row| row["name"] == "mixed").context("mixed")?;
        ensure!(mixed["untouched"] == Value::from(vec!["udp/53", "sctp/9"]), "{mixed}");
        Ok(format!("{} Services", all.len()))
    });
    table.row("the outcome is the same again when the agent has been replaced", || {
        stage.lab.agent("a").restart()?;
        leads_to(&stage.client, at("198.51.100.10", 80)?, &["server"])?;
        leads_to(&stage.client, at("192.0.2.31", 80)?, &["reset"])?;
        leads_to(&stage.client, at("10.96.201.4", 80)?, &["refused"])
    });
}
