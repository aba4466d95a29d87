//! Promise: a pod has one agent. What the pod says of itself goes before what its namespace says; where the pod says both,
//! Weft captures it, because nothing of a pod that asks for capture may leave in plaintext, and complains loudly.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use foreign::app::{dial, echo, send_back};
use foreign::pki::Offer;
use foreign::{Cast, Key, Manner, Server};
use futures_util::FutureExt;
use lab::row::Table;
use lab::{Lab, Pod, programs};

const TEST: &str = "a_pod_has_one_agent";
const LABEL: &str = "weft.dev/capture";
const ANNOTATION: &str = "weft.dev/tunnel";
const ECHO: u16 = 9002;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_pod_has_one_agent() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(one_agent);
}

fn one_agent(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    lab.namespace("mixed").captured()?;
    let both =
        lab.pod("mixed/both").node("b").service_account("both").annotation(ANNOTATION, "hbone").start()?;
    let _echo = programs::peer(&both, "echo", ECHO, &[])?;
    table.row("annotated in a captured namespace: the other mesh's agent serves it", || {
        lab.await_excluded(&both)?;
        lab.await_peers_see(&both, "foreign")?;
        through_the_other(&cast, &both)?;
        quiet(lab)
    });
    table.row("its own label beside it: Weft captures it, and the controller complains of both", || {
        both.set_label(LABEL, Some("enabled"))?;
        lab.await_captured(&both)?;
        lab.await_peers_tunnel(&both)?;
        through_weft(&cast, &both)?;
        complains(lab, &both)
    });
    table.row("with the annotation gone it is silent", || {
        both.set_annotation(ANNOTATION, None)?;
        problems(lab, 0)?;
        through_weft(&cast, &both)?;
        Ok(String::new())
    });
    table.row("back with the other mesh: peers use its agent, as soon as Weft's has let go", || {
        both.set_annotation(ANNOTATION, Some("hbone"))?;
        both.set_label(LABEL, None)?;
        lab.await_excluded(&both)?;
        lab.await_peers_see(&both, "foreign")?;
        free(&both)?;
        through_the_other(&cast, &both)?;
        quiet(lab)
    });
    table.row(
        "two agents in one pod for real: Weft's is steered to, the other one is reached by nobody",
        || {
            let server = host(&cast, &both)?;
            both.set_label(LABEL, Some("enabled"))?;
            lab.await_captured(&both)?;
            lab.await_peers_tunnel(&both)?;
            through_weft(&cast, &both)?;
            ensure!(server.arrivals().is_empty(), "{:?}", server.arrivals());
            complains(lab, &both)?;
            drop(server);
            through_weft(&cast, &both)?;
            Ok(String::new())
        },
    );
    table.finish();
    Ok(())
}

/// The other mesh's agent in the pod, played by the test.
fn host(cast: &Cast, pod: &Arc<Pod>) -> Result<Server> {
    let tls = cast.authority.issue(&cast.identity(pod), Key::P256)?.server(&Offer::default())?;
    Server::start(cast.runtime.handle(), pod, tls, Manner::default(), |arrival| send_back(arrival).boxed())
}

fn through_the_other(cast: &Cast, pod: &Arc<Pod>) -> Result<()> {
    let server = host(cast, pod)?;
    echo(&dial(&cast.client, SocketAddr::new(pod.v4().into(), 80))?, b"to the other")?;
    ensure!(server.arrivals().len() == 1, "{:?}", server.arrivals());
    server.stop()
}

fn through_weft(cast: &Cast, pod: &Pod) -> Result<()> {
    echo(&dial(&cast.client, SocketAddr::new(pod.v4().into(), ECHO))?, b"to Weft's")
}

/// Nobody listens at port 15008 any more.
fn free(pod: &Pod) -> Result<()> {
    // The agent keeps it until all peers have said that they know.
    lab::eventually(2 * PATIENCE, || match pod.listening_ports() {
        Ok(ports) if !ports.contains(&foreign::HBONE) => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

/// The controller's count of mistakes.
fn problems(lab: &Lab, wanted: u32) -> Result<()> {
    lab::eventually(PATIENCE, || {
        let text = lab.controller().metrics().map_err(|error| format!("{error:#}"))?;
        let line = text.lines().find(|line| line.starts_with("weft_controller_config_errors "));
        match line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()) {
            Some(count) if count == f64::from(wanted) => Ok(()),
            other => Err(format!("{other:?} problems")),
        }
    })
}

fn quiet(lab: &Lab) -> Result<String> {
    problems(lab, 0)?;
    Ok(String::new())
}

fn complains(lab: &Lab, pod: &Pod) -> Result<String> {
    problems(lab, 1)?;
    let log = std::fs::read_to_string(lab.place().logs().join("controller.log"))?;
    let line = log.lines().rev().find(|line| line.contains("ERROR") && line.contains(&pod.key()));
    let line = line.with_context(|| format!("no complaint about {}", pod.key()))?;
    for word in [LABEL, ANNOTATION, "take one of the two away"] {
        ensure!(line.contains(word), "no {word:?} in {line}");
    }
    Ok("one error, one line".into())
}
