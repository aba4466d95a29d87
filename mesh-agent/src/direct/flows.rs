//! What connections that no agent carries amount to: from the kernel's counts into the metrics.
//!
//! ```text
//! mesh_flows: what has ended ──────────┐
//! mesh_direct, mesh_left: what is open ┴─ bytes by sock_diag ─▶ Total ─ what is more than last time ─▶ Pair
//! ```
//!
//! The kernel's maps outlive the agent, and what was taken from them is kept beside (`ledger`), so over a restart the totals stay
//! exact. What has ended is read before what is open: a connection that ends in between is missing once, and never counted twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use mesh_common::{FlowCount, FlowKey};
use mesh_model::World;
use mesh_telemetry::api::{ConnectionPath, Direction, Security};

use super::ledger::{Disk, Ledger, difference};
use super::{Direct, destination, service, source};
use crate::connections::{About, End};
use crate::kernel::maps::{DirectConnection, Flow, addr, socket_addr};
use crate::metrics::Pair;
use crate::netns::Diag;
use crate::pods::Local;

/// What was taken over so far.
#[derive(Debug, Default)]
pub struct Counted {
    /// Absent until what an earlier agent kept has been taken over.
    seen: Option<HashMap<FlowKey, Seen>>,
    ledger: Ledger,
}

/// What was taken over of one row.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) count: FlowCount,
    /// Under whom its open connections are counted, for as long as there are any: an end must not be counted under whoever has the
    /// address by then.
    held: Vec<Arc<Pair>>,
    /// Under whom it was last counted, where they are still shown: what is found of it once its pod is gone is theirs.
    last: Vec<Weak<Pair>>,
}

impl Seen {
    /// As an earlier agent left it.
    pub(super) fn resumed(count: FlowCount, under: Vec<Arc<Pair>>) -> Self {
        let mut seen = Self { count: FlowCount::NONE, held: Vec::new(), last: Vec::new() };
        seen.now(count, under);
        seen
    }

    /// It has come to this, and is counted under these.
    pub(super) fn now(&mut self, count: FlowCount, under: Vec<Arc<Pair>>) {
        let before = if self.held.is_empty() { 0 } else { open(&self.count) };
        for pair in &under {
            pair.open.inc_by(open(&count) - before);
        }
        self.last = under.iter().map(Arc::downgrade).collect();
        self.held = if open(&count) > 0 { under } else { Vec::new() };
        self.count = count;
    }

    /// Those that it was last counted under.
    pub(super) fn under(&self) -> impl Iterator<Item = Arc<Pair>> {
        self.last.iter().filter_map(Weak::upgrade)
    }

    fn forget(&self) {
        self.held.iter().for_each(|pair| {
            pair.open.dec_by(open(&self.count));
        });
    }
}

impl Direct {
    /// Who is who, and what is shown, is settled: counting may begin.
    pub fn begin_counting(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Moves what is new into the metrics. Nothing before it is known whose it is: it stays in the kernel.
    pub fn count(&self) {
        if !self.settled.load(Ordering::Acquire) {
            return;
        }
        let world = self.world.load_full();
        let local = self.local.borrow().clone();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { seen, ledger } = &mut *counted;
        let seen = seen.get_or_insert_with(|| {
            let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.as_ref().map(|disk| ledger.begin(disk, &self.metrics)).unwrap_or_default()
        });
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
            let row = seen.entry(key).or_default();
            // Forgotten in the kernel meanwhile, and begun anew.
            if now.opened < row.count.opened || now.closed < row.count.closed {
                row.forget();
                *row = Seen::default();
            }
            // One that has ended since the map was read.
            now.sent = now.sent.max(row.count.sent);
            now.received = now.received.max(row.count.received);
            if row.count == now {
                continue;
            }
            let mut more = difference(&now, &row.count);
            more.closed -= self.were_cut(&key, more.closed);
            let abouts = abouts(&world, &local, &key);
            let under = self.under(row, &key, &abouts);
            for pair in &under {
                ledger.give(pair, &more);
            }
            if more.opened > 0 {
                abouts.iter().for_each(|about| self.connections.sightings().saw(about, more.opened));
            }
            if key.kind == FlowKey::OVERFLOW {
                // Of all kinds and profiles, and those that have ended may have a row of their own: nobody knows how many are open.
                row.count = now;
            } else {
                row.now(now, under);
            }
        }
        seen.retain(|key, row| {
            let stays = known.contains(key);
            if !stays {
                row.forget();
            }
            stays
        });
        self.cut_flows().retain(|key, left| *left > 0 && seen.contains_key(key));
    }

    /// The agent ends: what came to its metrics last is the next one's, too.
    pub fn finish(&self) {
        self.count();
        self.keep(true);
    }

    /// Keeps on disk what was counted, where that is due, and then forgets the rows of namespaces that are gone. Waits for the disk, and
    /// nobody else does meanwhile.
    pub fn keep(&self, anyhow: bool) {
        let local = self.local.borrow().clone();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { seen: Some(seen), ledger } = &mut *counted else { return };
        // In this order, and not waiting: whoever counts for the first time has the other lock and wants this one.
        let Ok(mut disk) = self.disk.try_lock() else { return };
        let is_gone = |key: &&FlowKey| key.kind != FlowKey::OVERFLOW && local.is_nobodys(key.netns_cookie);
        let gone: Vec<FlowKey> = seen.keys().filter(is_gone).copied().collect();
        let is_due = |disk: &Disk| disk.is_due() || anyhow || !gone.is_empty();
        let page = disk.as_ref().filter(|disk| is_due(disk)).and_then(|disk| ledger.page(disk.place(), seen));
        drop(counted);
        let is_kept = match (disk.as_mut(), page) {
            (Some(disk), Some(page)) => disk.write(&page),
            _ => true,
        };
        self.maps.direct().forget_flows(gone.iter());
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_kept || !gone.is_empty() {
            counted.ledger.is_old();
        }
        for row in gone.iter().filter_map(|key| counted.seen.as_mut()?.remove(key)) {
            row.forget();
        }
    }

    /// So many of those that have ended were cut: they are counted under their reason.
    fn were_cut(&self, key: &FlowKey, closed: u64) -> u64 {
        let mut cut = self.cut_flows();
        let Some(left) = cut.get_mut(key) else { return 0 };
        let now = closed.min(*left);
        *left -= now;
        now
    }

    fn cut_flows(&self) -> MutexGuard<'_, HashMap<FlowKey, u64>> {
        self.cut_flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose a row is: theirs whose connections are open; those at both ends; or, where one of these is gone, those that it was.
    fn under(&self, row: &Seen, key: &FlowKey, abouts: &[About]) -> Vec<Arc<Pair>> {
        if key.kind == FlowKey::OVERFLOW {
            // Of all kinds, so the least is said of them.
            return vec![self.metrics.rest(Direction::Outbound, Security::Plaintext)];
        }
        if !row.held.is_empty() {
            return row.held.clone();
        }
        let is_there = |about: &About| {
            about.source.workload.is_some()
                && (key.kind != FlowKey::DIRECT || about.destination.workload.is_some())
        };
        let last: Vec<Arc<Pair>> =
            if abouts.iter().all(is_there) { Vec::new() } else { row.under().collect() };
        if last.is_empty() { abouts.iter().map(|about| self.metrics.pair(about)).collect() } else { last }
    }

    /// One of these was cut.
    pub(super) fn note_cut(&self, key: FlowKey) {
        *self.cut_flows().entry(key).or_default() += 1;
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

/// How many are open: none, where a row was forgotten while they were.
fn open(count: &FlowCount) -> i64 {
    count.opened.saturating_sub(count.closed).cast_signed()
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
