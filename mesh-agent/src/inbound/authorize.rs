//! Whether a connection may be delivered. Today that is a question of the destination alone; policy comes here.

use std::net::SocketAddr;

use mesh_common::ListenerKey;
use mesh_model::Reason;

use crate::pods::Pod;

/// The destination must be the pod's own address, and none of the agent's ports there.
pub(super) fn destination(pod: &Pod, target: SocketAddr) -> Result<(), Reason> {
    if !pod.owns(target.ip()) {
        Err(Reason::ForeignAuthority)
    } else if ListenerKey::is_agents(target.port().into()) {
        Err(Reason::AgentPort)
    } else {
        Ok(())
    }
}
