//! A node as if it had never had an agent, or had forgotten everything.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, Pod};

/// How long a connection may take.
const STEP: Duration = Duration::from_secs(5);

/// Ends a node's agent and takes away what it has left in the kernel.
pub fn forget_agent(lab: &Lab, node: &str) -> Result<()> {
    lab.agent(node).kill();
    let program = lab::binary("mesh-agent")?;
    let bpffs = lab.place().bpffs(node);
    let reset = [program.as_os_str(), "reset".as_ref(), "--bpffs".as_ref(), bpffs.as_os_str()];
    lab.node(node).command(reset)?.run()?.ok()?;
    ensure!(!bpffs.join("weft").exists(), "pins are left in {}", bpffs.display());
    Ok(())
}

/// Before the mesh: no controller, no root, no agent on node `a`, and nothing of one.
pub fn before_the_mesh(lab: &Lab) -> Result<()> {
    lab.controller().kill();
    forget_agent(lab, "a")?;
    let root = lab.controller().root_cert();
    let agent = lab.agent("a");
    for directory in [Some(agent.state_dir()), Some(agent.cache_dir()), root.parent()].into_iter().flatten() {
        forget(directory)?;
    }
    Ok(())
}

/// As after a boot of a node that had an agent, and whose disk has lost what it knew.
pub fn make_cold(lab: &Lab) -> Result<()> {
    before_the_mesh(lab)?;
    let cache = lab.agent("a").cache_dir();
    std::fs::create_dir_all(cache)?;
    std::fs::write(cache.join("world"), "lost").context("write a cache that is none")
}

fn forget(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("empty {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// `connect` of a pod is refused by the node's hooks.
pub fn ensure_refused(pod: &Pod, to: SocketAddr) -> Result<()> {
    match pod.connect(to, STEP)? {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Ok(_) => bail!("{} connected to {to}, as if there were no mesh", pod.key()),
        Err(error) => bail!("{} to {to}: {error}", pod.key()),
    }
}

/// The same, for those who wait for it.
pub fn refused(pod: &Pod, to: SocketAddr) -> Result<(), String> {
    ensure_refused(pod, to).map_err(|error| format!("{error:#}"))
}
