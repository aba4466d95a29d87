//! Promise: where there never was an agent, the first one leaves the pods that run as they are until the world is known:
//! installing the mesh is no outage, however long the controller takes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use datapath::cold::{before_the_mesh, ensure_refused, refused};
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, eventually, programs};

const PORT: u16 = 7000;
const STEP: Duration = Duration::from_secs(5);
/// From the agent's start until its hooks decide, and from the controller's until everything is as it should be.
const UP: Duration = Duration::from_secs(20);

#[test]
fn the_first_agent_leaves_running_pods_as_they_are() {
    const NAME: &str = "the_first_agent_leaves_running_pods_as_they_are";
    if !lab::ready(NAME) {
        return;
    }
    for systemd in [false, true] {
        let builder = Lab::builder().node("a");
        let builder = if systemd { builder.systemd_cgroups() } else { builder };
        let driver = if systemd { "systemd cgroups" } else { "cgroupfs" };
        builder.run(|lab| install(lab, NAME, driver));
    }
}

fn install(lab: &Lab, name: &'static str, driver: &str) -> Result<()> {
    let mut table = Table::new(name);
    let row = |name: &str| format!("{driver}: {name}");
    before_the_mesh(lab)?;
    lab.namespace("shop").captured()?;
    let web = lab.pod("shop/web").service_account("web").start()?;
    let client = lab.pod("shop/client").service_account("client").start()?;
    let outside = lab.pod("plain/one").start()?;
    let database = lab.pod("plain/database").start()?;
    let forgotten = lab.pod("plain/forgotten").start()?;
    let _echoes = [programs::peer(&web, "echo", PORT, &[])?, programs::peer(&database, "echo", PORT, &[])?];
    let to_web = SocketAddr::new(web.v4().into(), PORT);
    let to_database = SocketAddr::new(database.v4().into(), PORT);
    let mut earlier = Held::open(&client, to_web)?;
    let mut untouched = Held::open(&outside, to_database)?;

    launch(lab)?;
    let late = lab.pod("plain/late").start()?;
    table.row(&row("hooks are there: a pod that starts now is refused"), || {
        eventually(UP, || refused(&late, to_database)).map(|()| String::new())
    });
    table.row(&row("who ran before connects as before, with or without the label"), || {
        for (pod, to) in
            [(&client, to_web), (&outside, to_database), (&web, to_database), (&database, to_web)]
        {
            for _ in 0..10 {
                drop(pod.connect(to, STEP)??);
            }
        }
        earlier.speak()?;
        untouched.speak().map(|()| String::new())
    });
    table.row(&row("also by an agent that is started again before it knows the world"), || {
        lab.agent("a").kill();
        launch(lab)?;
        drop(client.connect(to_web, STEP)??);
        drop(outside.connect(to_database, STEP)??);
        ensure_refused(&late, to_database)?;
        earlier.speak().map(|()| String::new())
    });

    // The API has never heard of it by the time the world is known.
    forgotten.delete_object()?;
    lab.controller().start()?;
    table.row(&row("once the world is known, labelled pods are captured"), || {
        for pod in [&client, &web] {
            lab.await_captured(pod)?;
        }
        // Captured is what the node says; a peer's tunnel is there once the controller has said so to every node.
        let meshed = || {
            let held = Held::open(&client, to_web)?;
            held.ensure_mtls(lab.agent("a")).map(|()| held)
        };
        eventually(UP, || meshed().map_err(|error| format!("{error:#}")))?.speak()?;
        Ok(String::new())
    });
    table.row(&row("and their connections from before are reset"), || {
        ensure!(earlier.speak().is_err(), "a connection from before the mesh goes on inside of it");
        Ok(String::new())
    });
    table.row(&row("pods without the label are untouched, the late one too"), || {
        for pod in [&outside, &late] {
            lab.await_excluded(pod)?;
            Held::open(pod, to_database)?.ensure_untouched(lab.agent("a"))?;
        }
        untouched.speak().map(|()| String::new())
    });
    table.row(&row("who is nobody's pod is refused"), || {
        eventually(UP, || refused(&forgotten, to_database))?;
        lab.await_state(&forgotten, "unknown").map(|()| String::new())
    });
    table.finish();
    Ok(())
}

/// Starts the agent, without a controller, and waits until it has taken hold of the node.
fn launch(lab: &Lab) -> Result<()> {
    let agent = lab.agent("a");
    agent.launch()?;
    eventually(UP, || agent.admin("/v1/pods").map_err(|error| format!("{error:#}"))).map(drop)
}
