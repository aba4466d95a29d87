//! What the actor last wrote to the kernel, to be compared with what is there.
//!
//! ```text
//! set_pod, set_cgroup, … ─▶ kernel ─▶ ledger          verify: ledger ≠ kernel ─▶ write again, count, say so
//! ```
//!
//! Whoever has root on the node can change a map or close a listener; that does not have to last. The ledger holds what
//! *is* wanted, not why: a pod's steps are in `enroll`. Entries that nobody wrote here are strangers (`Actor::forget_strangers`).

use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use mesh_common::{AddrEntry, CgroupEntry, PodEntry};
use socket2::SockRef;

use super::listeners::Listener;
use crate::kernel::maps::Maps;
use crate::kernel::{Kernel, MapFailure};
use crate::metrics::{Repaired, Repairs};
use crate::netns::Netns;

/// What is wanted in the kernel.
#[derive(Default)]
pub(super) struct Ledger {
    pods: HashMap<u64, PodEntry>,
    cgroups: HashMap<u64, CgroupEntry>,
    addrs: HashMap<IpAddr, AddrEntry>,
    listeners: HashMap<(IpAddr, u32), Kept>,
    /// Namespaces with an `sk_lookup`.
    lookups: HashMap<u64, Arc<Netns>>,
}

/// A listener, by a second descriptor on its socket.
struct Kept {
    /// Whose namespace it is in.
    cookie: u64,
    socket: TcpListener,
}

/// A listener whose socket does not listen any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Whose namespace it was in.
    pub(super) cookie: u64,
    pub(super) address: IpAddr,
    pub(super) port: u32,
}

impl Ledger {
    pub(super) fn pod(&mut self, cookie: u64, entry: Option<PodEntry>) {
        note(&mut self.pods, cookie, entry);
    }

    pub(super) fn cgroup(&mut self, id: u64, entry: Option<CgroupEntry>) {
        note(&mut self.cgroups, id, entry);
    }

    pub(super) fn addr(&mut self, address: IpAddr, entry: AddrEntry) {
        self.addrs.insert(address, entry);
    }

    /// Forgets an address, if it is still this namespace's.
    pub(super) fn forget_addr(&mut self, address: IpAddr, cookie: u64) {
        self.addrs.retain(|known, entry| *known != address || entry.netns_cookie != cookie);
    }

    pub(super) fn lookup(&mut self, cookie: u64, netns: Option<Arc<Netns>>) {
        note(&mut self.lookups, cookie, netns);
    }

    /// Keeps a listener that is in the kernel's map. Failing (no descriptor left), that one is not verified.
    pub(super) fn listener(&mut self, cookie: u64, listener: &Listener) {
        let kept = listener.socket.try_clone().ok().map(|socket| Kept { cookie, socket });
        note(&mut self.listeners, (listener.address, listener.port), kept);
    }

    /// Lets go of a namespace's listeners, which then close with their other descriptor.
    pub(super) fn forget_listeners(&mut self, cookie: u64) {
        self.listeners.retain(|_, kept| kept.cookie != cookie);
    }

    /// Writes again what differs. Returns the listeners that must be opened anew.
    pub(super) fn verify(
        &self,
        maps: &Maps,
        kernel: &mut Kernel,
        repairs: &Repairs,
    ) -> Result<Vec<Lost>, MapFailure> {
        for (id, wanted) in &self.cgroups {
            let found = maps.cgroup(*id);
            if found != Some(*wanted) {
                maps.set_cgroup(*id, *wanted)?;
                repairs.count(Repaired::MapEntry, &format_args!("cgroup {id} was {found:?}"));
            }
        }
        for (cookie, wanted) in &self.pods {
            let found = maps.pod(*cookie);
            if found != Some(*wanted) {
                maps.set_pod(*cookie, *wanted)?;
                repairs.count(Repaired::MapEntry, &format_args!("namespace {cookie} was {found:?}"));
            }
        }
        for (address, wanted) in &self.addrs {
            let found = maps.addr(*address);
            if found != Some(*wanted) {
                maps.set_addr(*address, *wanted)?;
                repairs.count(Repaired::Address, &format_args!("{address} was {found:?}"));
            }
        }
        for (cookie, netns) in &self.lookups {
            match kernel.verify_pod(netns) {
                Ok(None) => {}
                Ok(Some(wrong)) => {
                    repairs.count(Repaired::Hook, &format_args!("sk_lookup of namespace {cookie}: {wrong}"));
                }
                Err(error) => tracing::error!(
                    cookie,
                    error = &error as &dyn std::error::Error,
                    "a pod's sk_lookup hook is not as it should be"
                ),
            }
        }
        self.verify_listeners(maps, repairs)
    }

    fn verify_listeners(&self, maps: &Maps, repairs: &Repairs) -> Result<Vec<Lost>, MapFailure> {
        let steered = maps.listener_keys();
        let mut lost = Vec::new();
        for (key, kept) in &self.listeners {
            let (address, port) = *key;
            if !SockRef::from(&kept.socket).is_listener().unwrap_or(false) {
                lost.push(Lost { cookie: kept.cookie, address, port });
            } else if !steered.contains(key) {
                maps.set_listener(address, port, &kept.socket)?;
                repairs.count(Repaired::Listener, &format_args!("{address} port {port} was not in its map"));
            }
        }
        Ok(lost)
    }
}

fn note<K: Eq + std::hash::Hash, V>(all: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => all.insert(key, value),
        None => all.remove(&key),
    };
}
