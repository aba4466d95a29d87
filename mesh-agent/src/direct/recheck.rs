//! Direct connections that a policy no longer admits: their clients' sockets are ended, which resets both ends.
//!
//! Looked at whenever the world changes, and which pods are captured here: a policy may have changed while no agent was there.
//! A SYN that comes after a change is judged by it (`sk_lookup` asks the tables anew), so what is open now is all there is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use mesh_model::policy::Peer;
use mesh_model::{Reason, World};
use mesh_telemetry::api::Direction;

use super::flows::key_of;
use super::{Direct, about};
use crate::connections::Ended;
use crate::kernel::maps::DirectConnection;
use crate::netns::{Diag, Netns};
use crate::pods::Local;

/// One that is to end, and why.
type Refused = (DirectConnection, Reason, String);

impl Direct {
    /// Has everything looked at again soon. What changes meanwhile is looked at in one go.
    pub fn recheck_soon(&self) {
        self.again.notify_one();
    }

    /// Follows those wishes, on a task of the running runtime.
    pub fn follow_changes(self: &Arc<Self>) {
        let direct = self.clone();
        tokio::spawn(async move {
            loop {
                direct.again.notified().await;
                let one = direct.clone();
                match tokio::task::spawn_blocking(move || one.recheck()).await {
                    Ok(0) => {}
                    Ok(connections) => {
                        tracing::info!(connections, "ended direct connections that are no longer admitted");
                    }
                    Err(error) => tracing::error!(%error, "direct connections were not looked at again"),
                }
            }
        });
    }

    /// Ends what is no longer admitted; how many. Blocks for as long as it takes to look at all of them.
    fn recheck(&self) -> usize {
        let world = self.world.load_full();
        let local = self.local.borrow().clone();
        let mut refused: BTreeMap<u64, Vec<Refused>> = BTreeMap::new();
        for one in self.maps.direct().connections() {
            if let Some((reason, detail)) = refusal(&world, &local, &one)
                && let Some(cookie) = whose_socket(&local, &one)
            {
                refused.entry(cookie).or_default().push((one, reason, detail));
            }
        }
        let mut ended = 0;
        for (cookie, all) in refused {
            let Some(netns) = local.netns.get(&cookie) else { continue };
            // The kernel tells of their ends while this goes on.
            let tells = self.connections.access().wants_endings();
            if tells {
                self.has_cut_line(all.iter().map(|(one, ..)| (one.client, one.server)));
            }
            let mut gone = end(netns, &all).unwrap_or_else(|error| {
                tracing::error!(cookie, %error, "direct connections that no policy admits go on");
                Vec::new()
            });
            if tells {
                let is_gone = |one: &DirectConnection| gone.iter().any(|(gone, _)| gone.0 == *one);
                let goes_on = all.iter().map(|(one, ..)| one).filter(|one| !is_gone(one));
                self.has_no_cut_line(goes_on.map(|one| (one.client, one.server)));
            }
            ended += gone.len();
            for ((one, reason, detail), (bytes_sent, bytes_received)) in gone.drain(..) {
                self.note_cut(key_of(one));
                let inbound = about(&world, &local, one, Direction::Inbound);
                self.metrics.pair(&inbound).closed(Some(*reason));
                let about = about(&world, &local, one, Direction::Outbound);
                let came_to = Ended { bytes_sent, bytes_received, ..Ended::default() };
                self.connections.cut_after(&about, *reason, detail, &came_to);
            }
        }
        ended
    }
}

/// In which namespace its socket can be ended: the client's, or, where that is no captured pod's any more, the server's.
fn whose_socket(local: &Local, one: &DirectConnection) -> Option<u64> {
    if local.netns.contains_key(&one.netns_cookie) {
        return Some(one.netns_cookie);
    }
    let server = local.pods.iter().find(|(_, pod)| pod.addresses.contains(&one.server.ip()));
    server.map(|(cookie, _)| *cookie)
}

/// Why a connection would be refused now. A pod with itself is nobody's to refuse.
fn refusal(world: &World, local: &Local, one: &DirectConnection) -> Option<(Reason, String)> {
    let pod = local.pods.get(&one.netns_cookie);
    // Who is not taken in yet, by an agent that has just started, is somebody all the same.
    if pod.is_none() && !local.is_nobodys(one.netns_cookie) {
        return None;
    }
    if pod.is_some_and(|pod| pod.addresses.contains(&one.server.ip())) {
        return None;
    }
    let destination = world.workload_at(one.server.ip())?;
    if !destination.tunnel.is_hbone() {
        return None;
    }
    // Who is captured no more has no identity any more.
    let workload = pod.and_then(|pod| world.workload(&pod.uid));
    let identity = pod.map(|pod| workload.map_or(&pod.identity, |workload| &workload.identity));
    let identity = identity.filter(|_| workload.is_none_or(|workload| workload.enrolled));
    let peer = Peer { identity, address: one.client.ip() };
    let verdict = world.judge(destination, peer, one.server.port()).verdict;
    verdict.reason().map(|reason| (reason, verdict.to_string()))
}

/// Ends them all; which have, and what they had moved, from the client and back. One that cannot be ended keeps nobody else's open.
fn end<'a>(netns: &Netns, all: &'a [Refused]) -> io::Result<Vec<(&'a Refused, (u64, u64))>> {
    let by_ends: HashMap<_, _> = all.iter().map(|one| ((one.0.client, one.0.server), one)).collect();
    let diag = Diag::open(netns)?;
    let counted = diag.counted().unwrap_or_default();
    let moved: HashMap<_, _> =
        counted.iter().map(|one| ((one.local, one.remote), (one.sent, one.received))).collect();
    let mut ended = Vec::new();
    for socket in diag.sockets()? {
        let ends = [(socket.local, socket.remote), (socket.remote, socket.local)];
        let Some(one) = ends.iter().find_map(|ends| by_ends.get(ends)) else { continue };
        match diag.destroy(&socket) {
            Ok(()) => {
                let by_client = moved.get(&(one.0.client, one.0.server)).copied();
                let by_server =
                    || moved.get(&(one.0.server, one.0.client)).map(|(sent, received)| (*received, *sent));
                ended.push((*one, by_client.or_else(by_server).unwrap_or_default()));
            }
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => tracing::error!(
                client = %one.0.client, server = %one.0.server, %error,
                "a direct connection that no policy admits goes on"
            ),
        }
    }
    Ok(ended)
}
