//! Promise: a node on which nothing runs and nothing is remembered comes up by itself, the controller included.
//!
//! As after a boot that lost the disk: no process, no pin, no certificate, no root, a cache that is none. Agent and
//! controller are pods below the same `kubepods` as everybody's, and the agent is there first. (A node that never had an
//! agent: `first_agent`.)
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::cold::{ensure_refused, make_cold, refused};
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};
use serde_json::Value;

const PORT: u16 = 7000;
const STEP: Duration = Duration::from_secs(5);
/// From the agent's start until its hooks decide.
const HOOKS: Duration = Duration::from_secs(10);
/// From the controller's start until everything is as it should be.
const UP: Duration = Duration::from_secs(20);

/// A connection between neighbours that goes directly; the kernel's tables follow the capture at once, not before.
fn open_direct(lab: &Lab, from: &Pod, to: SocketAddr) -> Result<Held> {
    let held = Held::open(from, to)?;
    held.ensure_direct(lab.agent("a"))?;
    Ok(held)
}

#[test]
fn a_cold_node_comes_up_by_itself() {
    if !lab::ready("a_cold_node_comes_up_by_itself") {
        return;
    }
    for systemd in [false, true] {
        let builder = Lab::builder().node("a");
        let builder = if systemd { builder.systemd_cgroups() } else { builder };
        let name = if systemd { "systemd cgroups" } else { "cgroupfs" };
        builder.run(|lab| come_up(lab, name));
    }
}

fn come_up(lab: &Lab, driver: &str) -> Result<()> {
    let mut table = Table::new("a_cold_node_comes_up_by_itself");
    let row = |name: &str| format!("{driver}: {name}");
    make_cold(lab)?;
    lab.namespace("shop").captured()?;
    let web = lab.pod("shop/web").service_account("web").start()?;
    let client = lab.pod("shop/client").service_account("client").start()?;
    let outside = lab.pod("plain/one").start()?;
    let dns = lab.pod("kube-system/dns").start()?;
    let _echoes = [programs::peer(&web, "echo", PORT, &[])?, programs::peer(&dns, "banner", PORT, &[])?];
    let to_web = SocketAddr::new(web.v4().into(), PORT);
    let to_dns = SocketAddr::new(dns.v4().into(), PORT);
    ensure!(client.connect(to_web, STEP)?.is_ok(), "something of the mesh is left on the cold node");

    let start = Instant::now();
    lab.agent("a").launch()?;
    table.row(&row("with an agent and no controller, a labelled pod that runs is refused"), || {
        let refused = eventually(HOOKS, || refused(&client, to_web)).map(|()| start.elapsed())?;
        for _ in 0..50 {
            ensure_refused(&client, to_web)?;
        }
        Ok(format!("from {refused:.1?} after the agent's start"))
    });
    table.row(&row("so is one that is not classified"), || {
        eventually(HOOKS, || refused(&outside, to_dns))?;
        Ok("unknown".to_owned())
    });
    table.row(&row("a kube-system pod that connects at once works"), || {
        let seen = first_instruction(lab, "kube-system/proxy", to_dns)?;
        eventually(STEP, || match dns.connect(to_web, STEP) {
            Ok(Ok(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(seen)
    });

    let start = Instant::now();
    lab.controller().start().context("the controller, a pod that nobody has classified yet")?;
    table.row(&row("the controller comes up and the agent finds it"), || {
        lab.agent("a").await_ready()?;
        Ok(format!("after {:.1?}", start.elapsed()))
    });
    table.row(&row("labelled pods that were running are captured"), || {
        for pod in [&client, &web] {
            lab.await_captured(pod)?;
        }
        let mut held =
            eventually(UP, || open_direct(lab, &client, to_web).map_err(|error| format!("{error:#}")))?;
        held.speak()?;
        Ok(format!("directly after {:.1?}", start.elapsed()))
    });
    table.row(&row("pods without the label are untouched"), || {
        lab.await_excluded(&outside)?;
        let connection = outside.connect(to_dns, STEP)??;
        let rows = lab.agent("a").connections()?;
        let own = connection.local_addr()?.to_string();
        ensure!(!rows.iter().any(|row| row["src"]["addr"] == own.as_str()), "{rows:?}");
        Ok(format!("after {:.1?}", start.elapsed()))
    });
    table.row(&row("bootstrap pods stay outside"), || {
        lab.await_excluded(&dns)?;
        for pod in [lab.controller().pod(), lab.agent("a").pod()] {
            lab.await_excluded(pod)?;
        }
        first_instruction(lab, "kube-system/late", to_dns)
    });
    table.finish();
    Ok(())
}

#[test]
fn the_controllers_own_pod_comes_to_a_node_whose_agent_knows_nothing() {
    const NAME: &str = "the_controllers_own_pod_comes_to_a_node_whose_agent_knows_nothing";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").systemd_cgroups().run(|lab| {
        let mut table = Table::new(NAME);
        make_cold(lab)?;
        // Its next pod gets its address, as a Service's would stay.
        let gone = lab.controller().pod().clone();
        gone.delete()?;
        lab.namespace("shop").captured()?;
        let web = lab.pod("shop/web").service_account("web").start()?;
        let _echo = programs::peer(&web, "echo", PORT, &[])?;
        let client = lab.pod("shop/client").service_account("client").start()?;
        let dns = lab.pod("kube-system/dns").start()?;
        let _banner = programs::peer(&dns, "banner", PORT, &[])?;
        let to_dns = SocketAddr::new(dns.v4().into(), PORT);
        let to_web = SocketAddr::new(web.v4().into(), PORT);
        lab.agent("a").launch()?;
        eventually(HOOKS, || refused(&client, to_web))?;
        table.row("a pod of the controller's namespace dials as its first instruction", || {
            // As the controller does: the API server, and the name of it before.
            first_instruction(lab, "weft-system/another", to_dns)
        });
        table.row("so does the DNS server, to whom it asks", || {
            eventually(STEP, || match dns.connect(to_web, STEP) {
                Ok(Ok(_)) => Ok(String::new()),
                other => Err(format!("{other:?}")),
            })
        });
        table.row("one of another namespace is still refused", || {
            let pod = lab.pod("weft-systems/look-alike").start()?;
            eventually(STEP, || refused(&pod, to_dns))?;
            pod.delete().map(|()| String::new())
        });
        let start = Instant::now();
        let scheduled = lab.pod("weft-system/weft-controller-1").service_account("weft-controller");
        let scheduled = scheduled.addresses_of(&gone).schedule()?;
        let (pod, _process) = scheduled.launch(controller(lab)?)?;
        table.row(
            "its pod is made while the agent knows nobody: it comes up, and the agent finds it",
            || {
                lab.agent("a").await_ready()?;
                lab.await_excluded(&pod)?;
                Ok(format!("after {:.1?}", start.elapsed()))
            },
        );
        table.row("labelled pods are captured", || {
            for pod in [&client, &web] {
                lab.await_captured(pod)?;
            }
            let mut held =
                eventually(UP, || open_direct(lab, &client, to_web).map_err(|error| format!("{error:#}")))?;
            held.speak()?;
            Ok(format!("directly after {:.1?}", start.elapsed()))
        });
        table.finish();
        Ok(())
    });
}

/// The controller as the lab starts it, in a pod of the test's own.
fn controller(lab: &Lab) -> Result<Vec<OsString>> {
    let directory = lab.place().dir().join("controller");
    let state = lab.controller().root_cert();
    let flags: [(&str, OsString); 7] = [
        ("--dir", lab.place().objects().into()),
        ("--listen", "[::]:15010".into()),
        ("--trust-domain", lab::TRUST_DOMAIN.into()),
        ("--state-dir", state.parent().context("the root's directory")?.into()),
        ("--agent-tokens", directory.join("tokens").into()),
        ("--admin-socket", lab.controller().admin_socket().into()),
        ("--metrics-listen", "[::]:15020".into()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.into(), value]);
    Ok([lab::binary("mesh-controller")?.into()].into_iter().chain(flags).collect())
}

/// A new pod whose program dials as its first instruction: how long it was refused.
fn first_instruction(lab: &Lab, key: &str, to: SocketAddr) -> Result<String> {
    let scheduled = lab.pod(key).schedule()?;
    let (_pod, process) = scheduled.launch(["weft-lab-peer", "first-instruction", &to.to_string(), "30"])?;
    let seen: Value = process.wait(Duration::from_secs(60))?.ok()?.json()?;
    ensure!(seen["connected"] == true && seen["end"] == "line", "{seen}");
    let refusals = seen["refusals"].as_array().map_or(0, Vec::len);
    let milliseconds = seen["connected_us"].as_u64().unwrap_or_default() as f64 / 1000.0;
    Ok(format!("{key} connected after {milliseconds:.1} ms and {refusals} refusals"))
}
