//! Handshakes in progress at port 15008, and the bound on them: whoever can reach a pod can connect and be silent.
//!
//! ```text
//! accepted ─▶ enter ─▶ TLS ─▶ Place dropped
//!               └─ beyond a bound ─▶ the oldest is evicted
//! ```
//!
//! A handshake of somebody who means it takes milliseconds, so the oldest is one that does not: a flood of silent
//! connections drives out itself, and a newcomer always gets a place. Not here: how long a handshake may take (the wire's
//! `handshake_timeout`), and connections that are established.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mesh_model::Uid;
use tokio::sync::oneshot;

#[cfg(test)]
mod tests;

/// In progress at one pod. A pod's peers share connections, so this is a thousand nodes that come at one moment.
const PER_POD: usize = 1024;

/// In progress at all pods of the node, where descriptors are not scarce: then it is a quarter of them.
const PER_AGENT: usize = 8192;

/// The table of handshakes in progress.
#[derive(Debug)]
pub struct Handshakes {
    per_pod: usize,
    per_agent: usize,
    /// Held for an insert or a removal.
    going: Mutex<Going>,
}

/// By number, which is by age.
#[derive(Debug, Default)]
struct Going {
    next: u64,
    all: BTreeMap<u64, (Uid, oneshot::Sender<()>)>,
    of_pod: HashMap<Uid, BTreeSet<u64>>,
}

/// A handshake's place in the table, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    table: &'a Handshakes,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl Default for Handshakes {
    fn default() -> Self {
        use nix::sys::resource::{Resource, getrlimit};
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let quarter = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
        Self::new(PER_POD, PER_AGENT.min(quarter).max(1))
    }
}

impl Handshakes {
    fn new(per_pod: usize, per_agent: usize) -> Self {
        Self { per_pod: per_pod.min(per_agent), per_agent, going: Mutex::default() }
    }

    /// How many are going on.
    pub fn count(&self) -> usize {
        self.lock().all.len()
    }

    fn lock(&self) -> MutexGuard<'_, Going> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a handshake at a pod; the oldest one there, or on the node, makes room.
    pub(super) fn enter(&self, pod: &Uid) -> Place<'_> {
        let (sender, evicted) = oneshot::channel();
        let mut going = self.lock();
        let there = going.of_pod.get(pod).filter(|numbers| numbers.len() >= self.per_pod);
        let oldest = match there {
            Some(numbers) => numbers.first().copied(),
            None if going.all.len() >= self.per_agent => going.all.keys().next().copied(),
            None => None,
        };
        if let Some((_, loser)) = oldest.and_then(|number| going.remove(number)) {
            // It may have ended in this moment.
            let _ = loser.send(());
        }
        let number = going.next;
        going.next += 1;
        going.all.insert(number, (pod.clone(), sender));
        going.of_pod.entry(pod.clone()).or_default().insert(number);
        Place { table: self, number, evicted }
    }
}

impl Going {
    fn remove(&mut self, number: u64) -> Option<(Uid, oneshot::Sender<()>)> {
        let (pod, sender) = self.all.remove(&number)?;
        if let Some(numbers) = self.of_pod.get_mut(&pod) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_pod.remove(&pod);
            }
        }
        Some((pod, sender))
    }
}

impl Place<'_> {
    /// Ready when somebody newer needs the place.
    pub(super) async fn evicted(&mut self) {
        // A sender that is dropped without a word does not happen before the place itself is dropped.
        if (&mut self.evicted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(self.number);
    }
}
