//! Who talked to this node's captured pods in the last hour: what a policy that is not there yet would be tried on.
//!
//! ```text
//! inbound connection opened, direct connections counted ─▶ Sightings ── every few seconds ─▶ controller
//! ```
//!
//! Kept by who it was (identity, pod, address), whom and on which port. Bounded: with [`ROOM`] pairs that are no hour old yet a
//! new one is not kept, and counted as lost. A pair is told when it is new and then once a minute while it goes on. Not here:
//! connections that were refused, and those that leave the mesh.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_model::{Identity, Uid};
use mesh_telemetry::api::Direction;
use mesh_xds::{Client, Seen};

use crate::connections::About;
use crate::direct::Direct;

#[cfg(test)]
mod tests;

/// How many pairs are kept, about 200 bytes each.
const ROOM: usize = 8_192;
/// How long one is remembered after its last connection.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How often one that goes on is told again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often something is told at all.
const EVERY: Duration = Duration::from_secs(5);
/// How many pairs are told at once.
const AT_ONCE: usize = 512;

/// What was seen.
#[derive(Debug, Default)]
pub struct Sightings {
    /// Held for an insert or a look.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pairs: HashMap<Pair, Sighting>,
    lost: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    identity: Option<Identity>,
    source: Option<Uid>,
    address: IpAddr,
    uid: Uid,
    port: u16,
}

#[derive(Debug)]
struct Sighting {
    connections: u64,
    last: Instant,
    /// When the controller was told, and of how many.
    told: Option<(Instant, u64)>,
}

impl Sightings {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some connections to a pod of this node began.
    pub fn saw(&self, about: &About, connections: u64) {
        self.saw_at(about, connections, Instant::now());
    }

    fn saw_at(&self, about: &About, connections: u64, now: Instant) {
        let (Direction::Inbound, Some(destination)) = (about.direction, &about.destination.workload) else {
            return;
        };
        let pair = Pair {
            identity: about.source.identity.clone(),
            source: about.source.workload.as_ref().map(|workload| workload.uid.clone()),
            address: about.source.address.ip().to_canonical(),
            uid: destination.uid.clone(),
            port: about.destination.address.port(),
        };
        let mut state = self.state();
        if let Some(known) = state.pairs.get_mut(&pair) {
            known.connections += connections;
            known.last = now;
            return;
        }
        if state.pairs.len() >= ROOM {
            state.lost += connections;
            return;
        }
        state.pairs.insert(pair, Sighting { connections, last: now, told: None });
    }

    /// The controller knows nothing of what was told: it is another one, or has started over.
    pub fn tell_again(&self) {
        self.state().pairs.values_mut().for_each(|seen| seen.told = None);
    }

    /// What the controller does not know yet, and how many connections there was no room for.
    fn untold(&self, now: Instant) -> (Vec<Seen>, u64) {
        let mut state = self.state();
        state.pairs.retain(|_, seen| now.saturating_duration_since(seen.last) < REMEMBERED);
        let is_due = |seen: &Sighting| match seen.told {
            None => true,
            Some((at, of)) => of != seen.connections && now.saturating_duration_since(at) >= AGAIN,
        };
        let due = state.pairs.iter_mut().filter(|(_, seen)| is_due(seen)).take(AT_ONCE);
        let seen = due.map(|(pair, seen)| {
            seen.told = Some((now, seen.connections));
            Seen {
                identity: pair.identity.clone(),
                source: pair.source.clone(),
                address: pair.address,
                uid: pair.uid.clone(),
                port: pair.port,
                connections: seen.connections,
                ago: now.saturating_duration_since(seen.last),
            }
        });
        let seen = seen.collect();
        (seen, state.lost)
    }
}

/// Tells the controller, for as long as the runtime runs. The metrics are brought up to date on the way.
pub async fn tell(direct: Arc<Direct>, client: Client) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let counting = direct.clone();
        let _counted = tokio::task::spawn_blocking(move || counting.count()).await;
        let keeping = direct.clone();
        // It may take as long as the disk does: then the next one has nothing to do.
        drop(tokio::task::spawn_blocking(move || keeping.keep(false)));
        let (seen, lost) = direct.connections.sightings().untold(Instant::now());
        if !seen.is_empty() {
            client.observed(seen, lost);
        }
    }
}
