//! Connections that a pod opened before it was captured: those that lead into the mesh are ended at capture.
//!
//! ```text
//! agent late, or unknownPods: allow ─▶ a labelled pod dials in plaintext ─▶ pending (nothing new) ─▶ here ─▶ captured
//! ```
//!
//! Only for a pod that was labelled when the node first knew it: who labels a running pod keeps its connections. Only what
//! the pod itself dialled: what others dialled is theirs to end. Done while the pod is pending, when its connects are refused and
//! the agent has no socket in its namespace, so none slips through between the look and the capture.
//!
//! Not here: sockets as such (`netns::diag`), and when this is done (`enroll`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mesh_model::{Uid, Workload, World};
use mesh_xds::client::NodeEvent;

use super::pod::Pod;
use crate::metrics::{EarlierOutcome, EarlierSockets};
use crate::netns::{Diag, TcpSocket};

#[cfg(test)]
mod tests;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    ended: u64,
    kept: u64,
    /// The kernel would not.
    failed: u64,
}

/// Deals with a pod's connections from before: ends them, or counts what is kept. `keep` is what is in
/// force on the node. What people are to be told, if anything.
pub(super) fn settle(
    uid: &Uid,
    pod: &Pod,
    world: &World,
    keep: bool,
    counted: &EarlierSockets,
) -> Option<NodeEvent> {
    let mut why = None;
    let found = go_through(pod, world, keep, &mut why).unwrap_or_else(|error| {
        why = Some(error);
        Found { failed: 1, ..Found::default() }
    });
    counted.add(EarlierOutcome::Reset, found.ended);
    counted.add(EarlierOutcome::Kept, found.kept);
    counted.add(EarlierOutcome::Failed, found.failed);
    if let Some(error) = why {
        counted.say_once(&error);
    }
    let event = event(uid, found)?;
    tracing::info!(uid = %uid, reason = event.reason, "{}", event.note);
    Some(event)
}

fn go_through(pod: &Pod, world: &World, keep: bool, why: &mut Option<io::Error>) -> io::Result<Found> {
    let diag = Diag::open(&pod.netns)?;
    let sockets = diag.sockets()?;
    let mut found = Found::default();
    for socket in dialled(&sockets).filter(|socket| leads_into_mesh(world, &pod.addresses, socket.remote)) {
        if keep {
            found.kept += 1;
            continue;
        }
        match diag.destroy(socket) {
            Ok(()) => found.ended += 1,
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => {
                found.failed += 1;
                *why = Some(error);
            }
        }
    }
    Ok(found)
}

/// The connections that were made from here. The kernel does not say who dialled; a port at which somebody listens is a
/// server's.
fn dialled(sockets: &[TcpSocket]) -> impl Iterator<Item = &TcpSocket> {
    let served: HashSet<u16> =
        sockets.iter().filter(|socket| socket.listens()).map(|socket| socket.local.port()).collect();
    sockets.iter().filter(move |socket| !socket.listens() && !served.contains(&socket.local.port()))
}

/// Whether somebody in the mesh, or about to be, is at the other end. Of a Service any endpoint may be: the choice was
/// kube-proxy's, and nobody here knows it.
fn leads_into_mesh(world: &World, own: &[IpAddr], to: SocketAddr) -> bool {
    let address = to.ip().to_canonical();
    if address.is_loopback() || own.contains(&address) {
        return false;
    }
    if let Some(mesh) = world.mesh()
        && (mesh.excluded_prefixes.iter().any(|prefix| prefix.contains(&address))
            || mesh.excluded_ports.iter().any(|ports| ports.contains(&to.port())))
    {
        return false;
    }
    let meshed = |workload: &Workload| workload.enrolled || workload.tunnel.is_hbone();
    let is_meshed = |address: IpAddr| {
        world.is_contested(address) || world.workload_at(address).is_some_and(|workload| meshed(workload))
    };
    match world.service_at(address) {
        Some(service) => service.service().endpoints.iter().any(|endpoint| is_meshed(endpoint.address)),
        None => is_meshed(address),
    }
}

fn event(uid: &Uid, found: Found) -> Option<NodeEvent> {
    let (reason, note, warning) = match found {
        Found { failed: 1.., .. } => (
            "PreCaptureSocketsLeft",
            format!(
                "{} connections that the pod opened before it was captured could not be ended and may go on in plaintext \
                 (does the kernel have CONFIG_INET_DIAG_DESTROY?); restart the pod",
                found.failed
            ),
            true,
        ),
        Found { ended: 1.., .. } => (
            "PreCaptureSocketsReset",
            format!(
                "{} connections into the mesh that the pod opened before it was captured were reset; the application's next \
                 ones go through the mesh",
                found.ended
            ),
            false,
        ),
        Found { kept: 1.., .. } => (
            "PreCaptureSocketsKept",
            format!(
                "{} connections into the mesh that the pod opened before it was captured go on in plaintext \
                 (preCaptureSockets: keep)",
                found.kept
            ),
            false,
        ),
        _ => return None,
    };
    Some(NodeEvent { uid: Some(uid.clone()), reason: reason.into(), note, warning })
}
