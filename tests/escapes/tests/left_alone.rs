//! Pods that another mesh serves, and pods in sandboxes, are not captured although they are labelled: they are told apart, the
//! reason is shown, and peers reach them as any other pod outside the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lab::programs;
use lab::row::Table;
use lab::{Lab, Pod, eventually};

/// Who it is, what its Pod object says, and the reason.
const KINDS: [(&str, &str, &str, &str); 5] = [
    ("istio", "sidecar.istio.io/status", "{\"containers\":[\"istio-proxy\"]}", "istio_sidecar"),
    ("linkerd", "linkerd.io/proxy-version", "edge-25.8.1", "linkerd_sidecar"),
    ("ambient", "ambient.istio.io/redirection", "enabled", "istio_ambient"),
    ("gvisor", "", "gvisor", "sandboxed_runtime"),
    ("kata", "", "kata-qemu", "sandboxed_runtime"),
];

#[test]
fn pods_of_another_mesh_and_in_sandboxes_are_left_alone() {
    let test = "pods_of_another_mesh_and_in_sandboxes_are_left_alone";
    if !lab::ready(test) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(test);
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let mut others: Vec<(Arc<Pod>, programs::Server, &str)> = Vec::new();
        for (name, annotation, value, reason) in KINDS {
            let pod = lab.pod(&format!("shop/{name}")).node("b").service_account(name);
            let pod = match annotation {
                "" => pod.runtime_class(value),
                _ => pod.annotation(annotation, value),
            };
            let pod = pod.start()?;
            let server = programs::nginx(&pod).start()?;
            others.push((pod, server, reason));
        }
        lab.await_captured(&client)?;
        for (pod, _server, reason) in &others {
            lab.await_excluded(pod)?;
            lab.await_peers_see(pod, "none")?;
            table.row(
                &format!("{}: meshctl pods says {reason}, in the table and in JSON", pod.name()),
                || shown(lab, pod, reason),
            );
            table.row(
                &format!("{}: curl from a captured pod gets its page, in plain text", pod.name()),
                || fetched(lab, &client, pod),
            );
            table.row(&format!("{}: the controller's log says it once", pod.name()), || {
                let log = std::fs::read_to_string(lab.place().logs().join("controller.log"))?;
                let of_it = |line: &&str| {
                    line.contains("not captured") && line.contains(&format!("name={}", pod.name()))
                };
                let lines: Vec<&str> = log.lines().filter(of_it).collect();
                ensure!(lines.len() == 1 && lines[0].contains(reason), "{lines:?}");
                Ok(String::new())
            });
        }
        taken_over(lab, &mut table)?;
        table.finish();
        Ok(())
    });
}

/// Istio's ambient mode takes a pod that was captured, and lets it go again.
fn taken_over(lab: &Lab, table: &mut Table) -> Result<()> {
    let pod = lab.pod("shop/late").node("b").service_account("late").start()?;
    lab.await_captured(&pod)?;
    lab.await_peers_tunnel(&pod)?;
    table.row("a captured pod that Istio begins to redirect is let go, and peers are told", || {
        pod.set_annotation("ambient.istio.io/redirection", Some("enabled"))?;
        lab.await_excluded(&pod)?;
        lab.await_peers_see(&pod, "withdrawn")?;
        shown(lab, &pod, "istio_ambient")
    });
    table.row("and captured again when Istio lets it go", || {
        pod.set_annotation("ambient.istio.io/redirection", None)?;
        lab.await_captured(&pod)?;
        lab.await_peers_tunnel(&pod)?;
        Ok(String::new())
    });
    Ok(())
}

fn shown(lab: &Lab, pod: &Pod, reason: &str) -> Result<String> {
    let agent = lab.agent(pod.node().name());
    let meshctl = |more: &[&str]| -> Result<String> {
        let program = lab::binary("meshctl")?.display().to_string();
        let socket = agent.admin_socket().display().to_string();
        let words = [&[program.as_str(), "--socket", &socket, "pods"], more].concat();
        Ok(pod.node().command(words)?.run()?.ok()?.text())
    };
    let line = eventually(std::time::Duration::from_secs(10), || {
        let table = meshctl(&[]).map_err(|error| format!("{error:#}"))?;
        let line = table.lines().find(|line| line.contains(pod.uid())).map(str::to_owned);
        line.filter(|line| line.contains(reason)).ok_or(table)
    })?;
    ensure!(line.contains("excluded"), "{line}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&meshctl(&["-o", "json"])?)?;
    let row = rows.iter().find(|row| row["uid"] == pod.uid()).context("not in the JSON")?;
    ensure!(row["state"] == "excluded" && row["reason"] == reason, "{row}");
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn fetched(lab: &Lab, client: &Pod, pod: &Pod) -> Result<String> {
    let wire = lab.capture_wire("b")?;
    let to = SocketAddr::new(pod.v4().into(), 80);
    let page = client.exec(["curl", "-sS", "--max-time", "10", &format!("http://{to}/whoami")])?.ok()?;
    let pcap = wire.stop()?;
    let (plain, tunnels) =
        (pcap.plaintext_syns_to(to.ip(), to.port()), pcap.plaintext_syns_to(to.ip(), 15008));
    ensure!(plain == 1 && tunnels == 0, "{plain} SYNs in plain text, {tunnels} to 15008");
    ensure!(page.text().trim() == client.v4().to_string(), "{}", page.text());
    Ok("one SYN in plain text, none to 15008".to_owned())
}
