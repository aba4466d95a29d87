//! Promise: connections into the mesh that a labelled pod opened before it was captured end at its capture, unless the operator
//! keeps them; a running pod that gets the label later keeps its own; and people are told.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use datapath::cold::forget_agent;
use datapath::held::Held;
use datapath::words::await_line;
use lab::row::Table;
use lab::{Lab, Pod, Service, eventually, programs};

const PORT: u16 = 7000;
const SOON: Duration = Duration::from_secs(10);

/// Servers that are there before anything happens: one in the mesh, one outside.
struct Yard {
    server: Arc<Pod>,
    store: Arc<Pod>,
    service: Service,
    _servers: Vec<programs::Server>,
}

impl Yard {
    fn open(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let server = lab.pod("shop/server").node("b").service_account("server").label("app", "server");
        let (server, store) = (server.start()?, lab.pod("yard/store").node("b").start()?);
        let service = lab.service("shop/server").port(80, PORT).select("app", "server").create()?;
        let _servers =
            vec![programs::peer(&server, "echo", PORT, &[])?, programs::peer(&store, "echo", PORT, &[])?];
        lab.await_captured(&server)?;
        lab.await_excluded(&store)?;
        Ok(Self { server, store, service, _servers })
    }

    fn v4(&self) -> SocketAddr {
        SocketAddr::new(self.server.v4().into(), PORT)
    }

    /// Every way into the mesh.
    fn ways_in(&self) -> [SocketAddr; 3] {
        [
            self.v4(),
            SocketAddr::new(self.server.v6().into(), PORT),
            SocketAddr::new(self.service.v4().into(), 80),
        ]
    }

    fn outside(&self) -> SocketAddr {
        SocketAddr::new(self.store.v4().into(), PORT)
    }
}

/// Connections of a pod from before its capture.
struct Earlier {
    into: Vec<Held>,
    out: Held,
    /// Dialled by somebody outside the mesh, and by somebody in it.
    served: [Held; 2],
    _server: programs::Server,
}

impl Earlier {
    fn open(lab: &Lab, yard: &Yard, pod: &Pod) -> Result<Self> {
        let _server = programs::peer(pod, "echo", PORT, &[])?;
        let own = SocketAddr::new(pod.v4().into(), PORT);
        let into = yard.ways_in().into_iter().map(|to| Held::open(pod, to)).collect::<Result<Vec<_>>>()?;
        let out = Held::open(pod, yard.outside())?;
        let served = [Held::open(&yard.store, own)?, Held::open(&yard.server, own)?];
        for held in &into {
            let row = held.row(lab.agent("b"))?;
            ensure!(row.is_none_or(|row| row["security"] == "plaintext"), "not from before the capture");
        }
        Ok(Self { into, out, served, _server })
    }

    /// What leads into the mesh has ended, with an error and not as if all were said.
    fn ensure_reset(&mut self) -> Result<()> {
        for held in &mut self.into {
            let Err(error) = held.speak() else { anyhow::bail!("{} goes on", held.client) };
            let code = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
            ensure!(
                matches!(code, Some(libc_code::ECONNABORTED | libc_code::ECONNRESET | libc_code::EPIPE)),
                "{error:#}"
            );
        }
        Ok(())
    }

    fn ensure_rest_goes_on(&mut self) -> Result<()> {
        self.out.speak().context("to a pod outside the mesh")?;
        self.served.iter_mut().try_for_each(Held::speak).context("dialled by others")
    }
}

/// errno(3).
mod libc_code {
    pub const EPIPE: i32 = nix::errno::Errno::EPIPE as i32;
    pub const ECONNABORTED: i32 = nix::errno::Errno::ECONNABORTED as i32;
    pub const ECONNRESET: i32 = nix::errno::Errno::ECONNRESET as i32;
}

/// `weft_pre_capture_sockets_total` of node a's agent.
fn counted(lab: &Lab, outcome: &str) -> Result<u64> {
    let metrics = lab.agent("a").metrics()?;
    let name = format!("weft_pre_capture_sockets_total{{outcome=\"{outcome}\"}}");
    let line =
        metrics.lines().find_map(|line| line.strip_prefix(&name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().parse()?)
}

/// The controller's word on a pod, which Kubernetes shows as an Event.
fn told(lab: &Lab, reason: &str, pod: &Pod) -> Result<String> {
    let log = lab.place().logs().join("controller.log");
    await_line(&log, &[reason, pod.uid()])?;
    let text = std::fs::read_to_string(&log)?;
    let lines = text.lines().filter(|line| line.contains("PreCapture") && line.contains(pod.uid())).count();
    ensure!(lines == 1, "{lines} words on {}", pod.key());
    Ok(reason.to_owned())
}

#[test]
fn a_labelled_pods_earlier_connections_into_the_mesh_are_reset() {
    const NAME: &str = "a_labelled_pods_earlier_connections_into_the_mesh_are_reset";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let yard = Yard::open(lab)?;
        forget_agent(lab, "a")?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let plain = lab.pod("yard/client").node("a").start()?;
        let mut earlier = Earlier::open(lab, &yard, &client)?;
        let mut untouched = Held::open(&plain, yard.v4())?;
        lab.agent("a").launch()?;
        lab.await_captured(&client)?;
        table.row("the agent came after the pod: pod address, IPv6 and Service, reset", || {
            earlier.ensure_reset().map(|()| String::new())
        });
        table.row("what leads out of the mesh, and what others dialled, goes on", || {
            earlier.ensure_rest_goes_on().map(|()| String::new())
        });
        table.row("a pod outside the mesh keeps its connections", || {
            lab.await_excluded(&plain)?;
            untouched.speak().map(|()| String::new())
        });
        table.row("counted, and told once", || {
            let resets = counted(lab, "reset")?;
            ensure!(resets == 3 && counted(lab, "failed")? == 0, "{resets}");
            told(lab, "PreCaptureSocketsReset", &client)
        });
        table.row("the next connection goes through the mesh", || {
            let held = eventually(SOON, || Held::open(&client, yard.v4()).map_err(|e| format!("{e:#}")))?;
            held.ensure_mtls(lab.agent("a")).map(|()| String::new())
        });
        let mut held = Held::open(&client, yard.outside())?;
        table.row("an agent that comes back leaves everything as it is", || {
            lab.agent("a").restart()?;
            lab.await_captured(&client)?;
            earlier.out.speak()?;
            held.speak().context("opened out of the mesh by a captured pod")?;
            ensure!(counted(lab, "reset")? == 0, "connections were reset");
            Ok(String::new())
        });

        lab.controller().kill();
        lab.agent("a").kill();
        lab.agent("a").launch_under(&["env", "WEFT_UNKNOWN_PODS=allow"])?;
        let late = lab.pod("shop/late").node("a").service_account("late").start()?;
        lab.await_state(&late, "unknown")?;
        let mut earlier = Earlier::open(lab, &yard, &late)?;
        lab.controller().start()?;
        lab.await_captured(&late)?;
        table.row("unknownPods: allow, and the controller came after the pod: reset", || {
            earlier.ensure_reset()?;
            earlier.ensure_rest_goes_on()?;
            ensure!(counted(lab, "reset")? == 3, "{} resets", counted(lab, "reset")?);
            told(lab, "PreCaptureSocketsReset", &late)
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn earlier_connections_are_kept_where_the_operator_or_the_label_says_so() {
    const NAME: &str = "earlier_connections_are_kept_where_the_operator_or_the_label_says_so";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let yard = Yard::open(lab)?;
        table.row("a running pod that gets the label keeps its connections", || {
            later_label(lab, &yard, "one", false)
        });
        table.row("also where it gets it while its agent is away", || later_label(lab, &yard, "two", true));

        forget_agent(lab, "a")?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let mut earlier = Earlier::open(lab, &yard, &client)?;
        lab.agent("a").launch_under(&["env", "WEFT_PRE_CAPTURE_SOCKETS=keep"])?;
        lab.await_captured(&client)?;
        table.row("the agent's flag says keep: they go on, are counted and told", || {
            kept(lab, &mut earlier)?;
            told(lab, "PreCaptureSocketsKept", &client)
        });

        forget_agent(lab, "a")?;
        let other = lab.pod("shop/other").node("a").service_account("other").start()?;
        let mut earlier = Earlier::open(lab, &yard, &other)?;
        lab.write_object(
            "mesh.yaml",
            "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n\
             spec: {preCaptureSockets: keep}\n",
        )?;
        lab.agent("a").launch()?;
        lab.await_captured(&other)?;
        table.row("the MeshConfig says keep: the same, whatever the flag says", || {
            kept(lab, &mut earlier)?;
            told(lab, "PreCaptureSocketsKept", &other)
        });
        table.finish();
        Ok(())
    });
}

fn kept(lab: &Lab, earlier: &mut Earlier) -> Result<()> {
    earlier.into.iter_mut().try_for_each(Held::speak)?;
    earlier.ensure_rest_goes_on()?;
    let (kept, reset) = (counted(lab, "kept")?, counted(lab, "reset")?);
    ensure!(kept >= 3 && reset == 0, "{kept} kept, {reset} reset");
    Ok(())
}

/// A pod that runs outside the mesh is labelled, and stays in it over its agent's restarts.
fn later_label(lab: &Lab, yard: &Yard, name: &str, away: bool) -> Result<String> {
    let pod = lab.pod(&format!("yard/{name}")).node("a").service_account(name).start()?;
    lab.await_excluded(&pod)?;
    let mut held = Held::open(&pod, yard.v4())?;
    if away {
        lab.agent("a").kill();
    }
    pod.set_label("weft.dev/capture", Some("enabled"))?;
    if away {
        lab.agent("a").start()?;
    }
    lab.await_captured(&pod)?;
    held.speak().context("once it was captured")?;
    for _ in 0..2 {
        lab.agent("a").restart()?;
        lab.await_captured(&pod)?;
        held.speak().context("after a restart of its agent")?;
    }
    eventually(SOON, || {
        let meshed = Held::open(&pod, yard.v4()).map_err(|error| format!("{error:#}"))?;
        meshed.ensure_mtls(lab.agent("a")).map_err(|error| format!("{error:#}"))
    })?;
    Ok(String::new())
}
