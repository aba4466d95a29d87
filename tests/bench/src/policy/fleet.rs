//! Agents of the nodes that are not there (`weft-bench policy-fleet`): they say of each of their pods that it is captured,
//! and acknowledge what they are told.
//!
//! Without them the other nodes' pods would be outside the mesh, and no policy about them ever be in force. They keep no
//! world. One process, which `policy` starts in a pod on node b.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Process;
use mesh_model::Change;
use mesh_xds::{Capture, Client, ClientConfig, Event};
use tokio::sync::mpsc;

use crate::cli::FleetOptions;
use crate::control::shape::Shape;
use crate::report::Outcome;
use crate::stage::Stage;

/// Kubernetes namespace of their pod; outside the mesh.
const NAMESPACE: &str = "bench-fleet";
/// Where the lab's controller listens.
const CONTROLLER_PORT: u16 = 15010;
/// Said when all of them have been told the whole world.
const READY: &str = "ready";
/// Until it is said.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes their tokens and starts them.
pub fn start(stage: &Stage) -> Result<Process> {
    let (lab, place) = (stage.lab(), stage.lab().place().dir());
    let pod = stage.on_core_of("b", || lab.pod(&format!("{NAMESPACE}/agents")).node("b").start())?;
    lab.await_excluded(&pod)?;
    let directory = pod.directory("tokens")?;
    let file = place.join("controller/tokens");
    let mut lines = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    for node in Shape::nodes() {
        let token = format!("token-of-{node}");
        private(&directory.join(&node), &token)?;
        lines.push_str(&format!("{node} {token}\n"));
    }
    let new = file.with_extension("new");
    private(&new, &lines)?;
    fs::rename(&new, &file).with_context(|| format!("write {}", file.display()))?;
    let program = lab::binary("weft-bench")?;
    let controller = format!("{}:{CONTROLLER_PORT}", lab.controller().pod().v4());
    let roots = lab.controller().root_cert();
    let command = pod.command_in_new_container([
        program.as_os_str(),
        "policy-fleet".as_ref(),
        "--controller".as_ref(),
        controller.as_ref(),
        "--roots".as_ref(),
        roots.as_os_str(),
        "--tokens".as_ref(),
        directory.as_os_str(),
    ])?;
    let mut process = stage.on_core_of("b", || command.spawn())?;
    let ready = lab::eventually(PATIENCE, || match process.is_running() {
        true if process.stdout_so_far().contains(READY) => Ok(Ok(())),
        true => Err("not all are connected".to_owned()),
        false => Ok(Err(process.failure_report())),
    });
    match ready.context("start the other nodes' agents")? {
        Ok(()) => Ok(process),
        Err(report) => bail!("start the other nodes' agents: {report}"),
    }
}

/// Is them, until killed.
pub fn run(options: &FleetOptions) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (whole, mut complete) = mpsc::channel(1);
        let followers: Vec<_> = Shape::nodes()
            .map(|node| {
                let token = options.tokens.join(&node);
                let config = ClientConfig::new(&options.controller, &options.roots, token, &node);
                let (client, events) = Client::spawn(config);
                tokio::spawn(follow(node, client, events, whole.clone()))
            })
            .collect();
        for _ in &followers {
            complete.recv().await.context("an agent has ended")?;
        }
        println!("{READY}");
        for follower in followers {
            follower.await?;
        }
        bail!("all agents have ended")
    })
}

async fn follow(node: String, client: Client, mut events: mpsc::Receiver<Event>, whole: mpsc::Sender<()>) {
    let mut is_new = true;
    while let Some(event) = events.recv().await {
        let update = match event {
            Event::Update(update) => update,
            Event::Disconnected { error } => {
                eprintln!("{node}: {error}");
                continue;
            }
            Event::Connected | Event::Released(_) => continue,
        };
        for change in update.changes {
            match change {
                Change::Workload(workload)
                    if *workload.node == *node && workload.enrolled && !workload.tunnel.is_hbone() =>
                {
                    client.report(workload.uid, Capture::Captured);
                }
                Change::WorkloadRemoved(uid) => client.forget(&uid),
                _ => {}
            }
        }
        update.receipt.ack();
        if update.complete && std::mem::take(&mut is_new) {
            // Who waits for it has gone only if everything has.
            let _unheard = whole.send(()).await;
        }
    }
}

fn private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
