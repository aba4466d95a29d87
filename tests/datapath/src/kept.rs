//! What an agent keeps on its node's disk, read as its next process would.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lab::{Agent, Pod, eventually};
use mesh_model::{Tunnel, Workload};
use mesh_xds::{Resource, snapshot};

/// The agent writes a second after the last write, or later on a slow disk: a twentieth of the time at most.
const KEPT: Duration = Duration::from_secs(20);

/// The file.
pub fn file(agent: &Agent) -> PathBuf {
    agent.cache_dir().join("world")
}

fn resources(agent: &Agent) -> Result<Vec<Resource>, String> {
    let path = file(agent);
    let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    snapshot::read(&bytes, agent.node()).map_err(|error| error.to_string())
}

/// What it says of a pod.
pub fn workload(agent: &Agent, uid: &str) -> Result<Option<Workload>, String> {
    Ok(resources(agent)?.into_iter().find_map(|resource| match resource {
        Resource::Workload(workload) if workload.uid.as_str() == uid => Some(workload),
        _ => None,
    }))
}

/// Waits until it says that the pod is reached by tunnel.
pub fn await_tunnel(agent: &Agent, pod: &Pod) -> Result<()> {
    eventually(KEPT, || match workload(agent, pod.uid())? {
        Some(workload) if workload.tunnel == Tunnel::Hbone => Ok(()),
        other => Err(format!("the cache of {} has {other:?}", agent.node())),
    })
}

/// Waits until it has the Service `NAMESPACE/NAME`: who begins without takes its address for one outside of the mesh.
pub fn await_service(agent: &Agent, name: &str) -> Result<()> {
    eventually(KEPT, || {
        let is_it =
            |resource: &Resource| matches!(resource, Resource::Service(it) if it.key.to_string() == name);
        match resources(agent)?.iter().any(is_it) {
            true => Ok(()),
            false => Err(format!("the cache of {} has no Service {name}", agent.node())),
        }
    })
}

/// Waits until it knows the pod, or does not.
pub fn await_known(agent: &Agent, pod: &Pod, known: bool) -> Result<()> {
    eventually(KEPT, || match workload(agent, pod.uid())? {
        found if found.is_some() == known => Ok(()),
        other => Err(format!("the cache of {} has {other:?}", agent.node())),
    })
}
