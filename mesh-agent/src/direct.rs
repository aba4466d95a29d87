//! Connections that no agent carries: from pod to pod of this node, and to what is outside the mesh.
//!
//! ```text
//! kernel: mesh_direct (which are open) ─┬─▶ rows for meshctl, with the bytes that the sockets have counted
//!                                       └─▶ recheck: a policy that no longer admits one ends its socket
//!         mesh_flows (what they amount to) ─▶ metrics, and on disk for the next agent (`ledger`)
//!         mesh_events (what was refused) ──▶ log, metrics
//!         mesh_ended (each end, where that is wanted) ──▶ access log
//! ```
//!
//! A direct connection's client is who the connect hook found: the socket's own namespace, which no pod can forge. So it has an
//! identity like a tunnelled one, by the kernel's word instead of a certificate's. Not here: which connections go directly (the
//! hooks, by the tables of `kernel::lower`).

mod endings;
mod events;
mod flows;
mod ledger;
mod recheck;
mod ring;

pub use ledger::{Disk, Place};

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_common::FlowKey;
use mesh_model::{ServiceKey, World};
use mesh_telemetry::api::{ConnectionPath, ConnectionRow, Direction, Security};
use tokio::sync::{Notify, watch};

use crate::connections::{About, Connections, End, row};
use crate::kernel::maps::{DirectConnection, Maps};
use crate::metrics::Metrics;
use crate::netns::Diag;
use crate::pods::Local;

/// What there is to know of them.
pub struct Direct {
    /// What the controller last said.
    pub world: Arc<ArcSwap<World>>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// This node's captured pods.
    pub local: watch::Receiver<Arc<Local>>,
    /// Where refusals are counted and logged.
    pub connections: Arc<Connections>,
    /// Where everything else is counted.
    pub metrics: Metrics,
    /// What of the kernel's counts is in the metrics already. Held while they are moved, and never while anybody waits for the disk.
    pub counted: Mutex<flows::Counted>,
    /// How many were cut that are not counted yet.
    pub cut_flows: Mutex<HashMap<FlowKey, u64>>,
    /// Where what is counted is kept for the next agent, if it is. Held by who writes it.
    pub disk: Mutex<Option<Disk>>,
    /// Counting may begin.
    pub settled: AtomicBool,
    /// Which were cut and have their line in the access log.
    pub cut: Mutex<endings::Cut>,
    /// Something has changed by which open connections are judged.
    pub again: Notify,
}

/// How long what was told while no agent was there waits for the world that it is about.
const PATIENCE: Duration = Duration::from_secs(5);

impl Direct {
    /// Until it is known who is who, or [`PATIENCE`] is over.
    async fn knows(self: Arc<Self>) {
        let began = Instant::now();
        while !(self.world.load().is_complete() && self.local.borrow().whole) && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Every direct connection that is open, from both of its ends.
    pub fn rows(&self) -> Vec<ConnectionRow> {
        let world = self.world.load_full();
        let local = self.local.borrow().clone();
        let mut open = self.maps.direct().connections();
        open.sort_by_key(|one| (one.netns_cookie, one.client, one.server));
        let mut rows = Vec::with_capacity(2 * open.len());
        for of_pod in open.chunk_by(|a, b| a.netns_cookie == b.netns_cookie) {
            let bytes = bytes_of(&local, of_pod);
            for (one, (sent, received)) in of_pod.iter().zip(bytes) {
                for (direction, low) in [(Direction::Outbound, 0), (Direction::Inbound, 1)] {
                    let about = about(&world, &local, one, direction);
                    rows.push(row(id_of(one) | low, &about, sent, received));
                }
            }
        }
        rows
    }
}

/// Unlike those of carried connections, which count up from 1.
fn id_of(one: &DirectConnection) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hash = DefaultHasher::new();
    (one.client, one.server, one.netns_cookie).hash(&mut hash);
    (1 << 52) | (hash.finish() & ((1 << 51) - 1)) << 1
}

/// What the sockets of one pod have counted; nothing for one that has gone meanwhile.
fn bytes_of(local: &Local, open: &[DirectConnection]) -> Vec<(u64, u64)> {
    let netns = open.first().and_then(|one| local.netns.get(&one.netns_cookie));
    let sockets =
        netns.and_then(|netns| Diag::open(netns).and_then(|diag| diag.counted()).ok()).unwrap_or_default();
    let by_ends: HashMap<_, _> = sockets
        .iter()
        .map(|socket| ((socket.local, socket.remote), (socket.sent, socket.received)))
        .collect();
    open.iter().map(|one| by_ends.get(&(one.client, one.server)).copied().unwrap_or_default()).collect()
}

fn about(world: &World, local: &Local, one: &DirectConnection, direction: Direction) -> About {
    About {
        direction,
        path: ConnectionPath::Direct,
        security: Security::Kernel,
        source: source(world, local, one.netns_cookie, one.client),
        destination: destination(world, one.server),
        service: service(world, one.dialled),
    }
}

/// Who dialled, by the namespace of its socket.
pub(crate) fn source(world: &World, local: &Local, netns_cookie: u64, address: SocketAddr) -> End {
    let Some(pod) = local.pods.get(&netns_cookie) else {
        return End { workload: None, identity: None, address };
    };
    let workload = world.workload(&pod.uid).cloned();
    let identity =
        workload.as_ref().map_or_else(|| pod.identity.clone(), |workload| workload.identity.clone());
    End { workload, identity: Some(identity), address }
}

fn destination(world: &World, address: SocketAddr) -> End {
    let workload = world.workload_at(address.ip()).cloned();
    End { identity: workload.as_ref().map(|workload| workload.identity.clone()), workload, address }
}

fn service(world: &World, dialled: SocketAddr) -> Option<ServiceKey> {
    let served = world.service_at(dialled.ip()).or_else(|| world.outer_service_at(dialled));
    served.map(|served| served.service().key.clone())
}
