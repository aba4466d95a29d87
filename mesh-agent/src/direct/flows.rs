//! What connections that no agent carries amount to: from the kernel's counts into the metrics.
//!
//! ```text
//! mesh_flows: what has ended ──────────┐
//! mesh_direct, mesh_left: what is open ┴─ bytes by sock_diag ─▶ Total ─ what is more than last time ─▶ Pair
//! ```
//!
//! The kernel's maps outlive the agent, so over a restart the totals stay exact: the first look adds all of it. What has
//! ended is read before what is open: a connection that ends in between is missing once, and never counted twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use mesh_common::{FlowCount, FlowKey};
use mesh_model::World;
use mesh_telemetry::api::{ConnectionPath, Direction, Security};

use super::{Direct, destination, service, source};
use crate::connections::{About, End};
use crate::kernel::maps::{DirectConnection, Flow, addr, socket_addr};
use crate::metrics::Pair;
use crate::netns::Diag;
use crate::pods::Local;

/// What was taken over so far.
#[derive(Debug, Default)]
pub struct Counted {
    seen: HashMap<FlowKey, Seen>,
    /// Of those that have ended, how many were cut: they are counted under their reason.
    cut: HashMap<FlowKey, u64>,
}

/// What was taken over of one row.
#[derive(Debug, Default)]
struct Seen {
    count: FlowCount,
    /// Under whom its open connections are counted, for as long as there are any: an end must not be counted under whoever has the
    /// address by then.
    open: Vec<(About, Arc<Pair>)>,
}

impl Seen {
    fn forget(&self) {
        self.open.iter().for_each(|(_, pair)| {
            pair.open.dec_by(open(&self.count));
        });
    }
}

impl Direct {
    /// Moves what is new into the metrics. Nothing before it is known whose it is: it stays in the kernel.
    pub fn count(&self) {
        let world = self.world.load_full();
        if !world.is_complete() {
            return;
        }
        let local = self.local.borrow().clone();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = HashSet::new();
        let flows = self.maps.direct().flows();
        let bytes = self.open_bytes(&local);
        for Flow { key, count: mut now } in flows {
            known.insert(key);
            let is_known = local.pods.contains_key(&key.netns_cookie) || local.is_nobodys(key.netns_cookie);
            if key.kind != FlowKey::OVERFLOW && !is_known {
                continue;
            }
            let (sent, received) = bytes.get(&key).copied().unwrap_or_default();
            now.sent += sent;
            now.received += received;
            let Seen { count: before, open: held } = counted.seen.remove(&key).unwrap_or_default();
            // One that has ended since the map was read.
            now.sent = now.sent.max(before.sent);
            now.received = now.received.max(before.received);
            if before == now {
                counted.seen.insert(key, Seen { count: now, open: held });
                continue;
            }
            let closed = now.closed.saturating_sub(before.closed);
            let cut = counted.cut.get(&key).copied().unwrap_or(0).min(closed);
            if let Some(left) = counted.cut.get_mut(&key) {
                *left -= cut;
            }
            let mut ends = held;
            if ends.is_empty() {
                let abouts = abouts(&world, &local, &key).into_iter();
                ends = abouts.map(|about| (about.clone(), self.metrics.pair(&about))).collect();
            }
            for (about, pair) in &ends {
                add(pair, &now, &before, cut, about.direction);
                let opened = now.opened.saturating_sub(before.opened);
                if opened > 0 {
                    self.connections.sightings().saw(about, opened);
                }
            }
            if open(&now) <= 0 {
                ends.clear();
            }
            counted.seen.insert(key, Seen { count: now, open: ends });
        }
        let is_gone = |key: &&FlowKey| key.kind != FlowKey::OVERFLOW && local.is_nobodys(key.netns_cookie);
        let gone: Vec<FlowKey> = known.iter().filter(is_gone).copied().collect();
        self.maps.direct().forget_flows(gone.iter());
        let gone: HashSet<FlowKey> = gone.into_iter().collect();
        counted.seen.retain(|key, seen| {
            let stays = known.contains(key) && !gone.contains(key);
            if !stays {
                seen.forget();
            }
            stays
        });
        let Counted { seen, cut } = &mut *counted;
        cut.retain(|key, left| *left > 0 && seen.contains_key(key));
    }

    /// One of these was cut.
    pub(super) fn note_cut(&self, key: FlowKey) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner).cut.entry(key).or_default() += 1;
    }

    /// What open connections have moved so far: there and back.
    fn open_bytes(&self, local: &Local) -> HashMap<FlowKey, (u64, u64)> {
        let mut open: BTreeMap<u64, HashMap<(SocketAddr, SocketAddr), FlowKey>> = BTreeMap::new();
        for one in self.maps.direct().connections() {
            open.entry(one.netns_cookie).or_default().insert((one.client, one.server), key_of(&one));
        }
        for (netns_cookie, client, server) in self.maps.direct().left() {
            let key = FlowKey { netns_cookie, kind: FlowKey::LEFT, ..FlowKey::default() };
            open.entry(netns_cookie).or_default().insert((client, server), key);
        }
        let mut bytes: HashMap<FlowKey, (u64, u64)> = HashMap::new();
        for (cookie, by_ends) in open {
            let Some(netns) = local.netns.get(&cookie) else { continue };
            // Without an answer it is counted when it ends.
            let sockets = Diag::open(netns).and_then(|diag| diag.counted()).unwrap_or_default();
            for socket in sockets {
                if let Some(key) = by_ends.get(&(socket.local, socket.remote)) {
                    let (sent, received) = bytes.entry(*key).or_default();
                    *sent += socket.sent;
                    *received += socket.received;
                }
            }
        }
        bytes
    }
}

/// As the kernel counts it.
pub(super) fn key_of(one: &DirectConnection) -> FlowKey {
    FlowKey {
        netns_cookie: one.netns_cookie,
        peer: addr(one.server.ip()),
        dialled: addr(one.dialled.ip()),
        dialled_port: one.dialled.port().into(),
        kind: FlowKey::DIRECT,
    }
}

/// How many are open; less than none where a row was forgotten while they were.
fn open(count: &FlowCount) -> i64 {
    count.opened.cast_signed().wrapping_sub(count.closed.cast_signed())
}

fn add(pair: &Pair, now: &FlowCount, before: &FlowCount, cut: u64, direction: Direction) {
    let opened = now.opened.saturating_sub(before.opened);
    let closed = now.closed.saturating_sub(before.closed);
    pair.opened.inc_by(opened);
    pair.open.inc_by(open(now) - open(before));
    pair.closed_cleanly(closed.saturating_sub(cut));
    pair.failed(now.failed.saturating_sub(before.failed));
    pair.sent.inc_by(now.sent.saturating_sub(before.sent));
    pair.received.inc_by(now.received.saturating_sub(before.received));
    // The client's word: it is not told twice.
    if direction == Direction::Outbound {
        pair.retransmits.inc_by(now.retransmits.saturating_sub(before.retransmits));
        pair.measured([&now.connects, &now.round_trips], [&before.connects, &before.round_trips]);
    }
}

/// The pod's own port is not in the key: a Service's stands for one of each endpoint's.
fn endpoint(world: &World, key: &FlowKey) -> SocketAddr {
    let (peer, dialled) = (socket_addr(key.peer, 0), socket_addr(key.dialled, key.dialled_port));
    if peer.ip() == dialled.ip() {
        return dialled;
    }
    let served = world.service_at(dialled.ip()).or_else(|| world.outer_service_at(dialled));
    let endpoints = served.map(|served| served.service().endpoints.as_slice()).unwrap_or_default();
    let of_peer = endpoints.iter().filter(|endpoint| endpoint.address == peer.ip());
    let mut ports = of_peer.flat_map(|endpoint| &endpoint.ports).filter(|map| map.service == dialled.port());
    SocketAddr::new(peer.ip(), ports.next().map_or(0, |map| map.target))
}

/// Both ends of a direct connection are this node's pods: it is counted from both.
fn abouts(world: &World, local: &Local, key: &FlowKey) -> Vec<About> {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let source = source(world, local, key.netns_cookie, nowhere);
    if key.kind != FlowKey::DIRECT {
        return vec![About {
            direction: Direction::Outbound,
            path: ConnectionPath::Passthrough,
            security: Security::Plaintext,
            source,
            destination: End { workload: None, identity: None, address: nowhere },
            service: None,
        }];
    }
    let about = |direction| About {
        direction,
        path: ConnectionPath::Direct,
        security: Security::Kernel,
        source: source.clone(),
        destination: destination(world, endpoint(world, key)),
        service: service(world, socket_addr(key.dialled, key.dialled_port)),
    };
    vec![about(Direction::Outbound), about(Direction::Inbound)]
}
