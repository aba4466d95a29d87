//! Choosing among endpoints, and remembering whom a client was sent to.
//!
//! Turns are counted per Service, port and family (one shared counter would pin two that are dialled alternately to the same
//! endpoint each). What is remembered for session affinity is bounded: the clients are pods of this node, and the
//! [`Affinity::KEPT`] that dialled last are kept for certain; one that is forgotten is sent to any endpoint again, as it would
//! be after its timeout. Nothing outlives the process.
//!
//! The clock is handed in.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ServiceKey;

#[cfg(test)]
mod tests;

/// Among what is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The Service.
    pub service: &'a ServiceKey,
    /// Its port.
    pub port: u16,
    /// The family.
    pub ipv6: bool,
}

/// Where a client goes, given where it went before.
pub type Pick<'a> = dyn FnMut(Option<SocketAddr>) -> Option<SocketAddr> + 'a;

/// Chooses one of several endpoints.
pub trait Balancer: Send + Sync {
    /// An index below `count` for this connection. `count` is at least one.
    fn choose(&self, choice: &Choice<'_>, count: usize) -> usize;

    /// Session affinity: asks `pick` where this connection goes, telling it where the client's last one within `seconds`
    /// went, and remembers the answer.
    fn keep(
        &self,
        choice: &Choice<'_>,
        client: IpAddr,
        seconds: u32,
        pick: &mut Pick<'_>,
    ) -> Option<SocketAddr>;
}

/// Endpoints in turn, and session affinity by a clock.
pub struct RoundRobin {
    /// Held for one increment.
    turns: Mutex<HashMap<(ServiceKey, u16, bool), usize>>,
    /// Held while one connection is decided, so that connections that a client makes at once go to one endpoint, too.
    affinity: Mutex<Affinity>,
    /// Time since whenever.
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// Turns that are counted before all begin anew: Services that are gone leave theirs behind.
const TURNS: usize = 65_536;

impl RoundRobin {
    /// With a clock that never goes back.
    pub fn new(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { turns: Mutex::default(), affinity: Mutex::default(), clock: Box::new(clock) }
    }
}

impl Balancer for RoundRobin {
    fn choose(&self, choice: &Choice<'_>, count: usize) -> usize {
        let mut turns = lock(&self.turns);
        if turns.len() >= TURNS {
            turns.clear();
        }
        let turn = turns.entry((choice.service.clone(), choice.port, choice.ipv6)).or_default();
        let chosen = *turn % count.max(1);
        *turn = turn.wrapping_add(1);
        chosen
    }

    fn keep(
        &self,
        choice: &Choice<'_>,
        client: IpAddr,
        seconds: u32,
        pick: &mut Pick<'_>,
    ) -> Option<SocketAddr> {
        let now = (self.clock)();
        let key = Sticky { client, service: choice.service.clone(), port: choice.port };
        let mut affinity = lock(&self.affinity);
        let target = pick(affinity.recall(&key, now))?;
        affinity.remember(key, target, now + Duration::from_secs(seconds.into()));
        Some(target)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose connections go to one endpoint. A client has one address of a family, so this tells families apart, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Sticky {
    client: IpAddr,
    service: ServiceKey,
    port: u16,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    target: SocketAddr,
    until: Duration,
}

/// Two generations: what is used moves to the young one; when that is full, the old one is forgotten.
#[derive(Debug, Default)]
struct Affinity {
    young: HashMap<Sticky, Kept>,
    old: HashMap<Sticky, Kept>,
}

impl Affinity {
    /// Entries of a generation: so many are never forgotten, twice as many are all there can be (some 8 MiB).
    const KEPT: usize = 32_768;

    fn recall(&self, key: &Sticky, now: Duration) -> Option<SocketAddr> {
        let kept = self.young.get(key).or_else(|| self.old.get(key))?;
        (now < kept.until).then_some(kept.target)
    }

    fn remember(&mut self, key: Sticky, target: SocketAddr, until: Duration) {
        if self.young.len() >= Self::KEPT && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, Kept { target, until });
    }
}
