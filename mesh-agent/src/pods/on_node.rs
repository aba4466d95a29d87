//! The rest of the agent, as a pod's steps and the actor need it: whatever is written to the kernel goes through here, and
//! is remembered for the look at it later (`ledger`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_common::{AddrEntry, CgroupEntry, PodEntry};
use mesh_identity::{Keyring, Wanted};
use mesh_model::{Identity, Uid, World};
use mesh_xds::client::{Capture, Client};

use super::actor::Handle;
use super::earlier;
use super::guards::{Guard, Guards};
use super::ledger::Ledger;
use super::listeners::Listener;
use super::pod::Pod;
use crate::capture::Acceptor;
use crate::kernel::maps::Maps;
use crate::kernel::{Kernel, MapFailure};
use crate::metrics::{EarlierSockets, Repaired, Repairs};
use crate::netns::Netns;
use crate::settings::InForce;

/// What a step needs of the rest of the agent. The actor implements it; tests may.
pub(super) trait Node {
    /// Cookie of the host's network namespace.
    fn host_cookie(&self) -> u64;
    /// The mesh is leaving: no pod is wanted in it.
    fn is_leaving(&self) -> bool;
    fn set_pod(&mut self, cookie: u64, entry: PodEntry) -> Result<(), MapFailure>;
    fn remove_pod(&mut self, cookie: u64) -> Result<(), MapFailure>;
    fn set_cgroup(&mut self, id: u64, entry: CgroupEntry) -> Result<(), MapFailure>;
    fn remove_cgroup(&mut self, id: u64) -> Result<(), MapFailure>;
    fn set_addr(&mut self, address: IpAddr, entry: AddrEntry) -> Result<(), MapFailure>;
    fn remove_addr(&mut self, address: IpAddr, cookie: u64) -> Result<(), MapFailure>;
    fn set_listener(&mut self, cookie: u64, listener: &Listener) -> Result<(), MapFailure>;
    /// The namespace's listeners are about to close.
    fn forget_listeners(&mut self, cookie: u64);
    fn attach_pod(&mut self, netns: &Arc<Netns>) -> Result<(), String>;
    fn detach_pod(&mut self, cookie: u64);
    /// Takes back what a predecessor of this agent left of a pod's capture, if anything.
    fn end_earlier_capture(&mut self, cookie: u64) -> Result<(), MapFailure>;
    /// Whether a valid certificate is there; asks for one otherwise, and has the pod driven again when it comes.
    fn certificate_ready(&mut self, uid: &Uid, identity: &Identity) -> bool;
    /// The certificate is no longer needed for this pod.
    fn certificate_done(&mut self, uid: &Uid);
    /// Whether the whole world is known.
    fn world_complete(&self) -> bool;
    /// Whether the actor has heard of every pod in it.
    fn is_told(&self) -> bool;
    /// Ends the connections into the mesh that a pod opened before its capture, or whatever else the operator wants.
    fn settle_earlier(&self, uid: &Uid, pod: &Pod);
    fn accept(&self, pod: &Arc<Pod>, listeners: Vec<Listener>);
    /// The pod is let go: what the data path keeps for it may go.
    fn release(&self, uid: &Uid);
    /// Says what may leave the pod; again whenever it is looked at.
    fn guard(&mut self, uid: &Uid, netns: &Arc<Netns>, what: Guard<'_>);
    /// The pod's namespace is gone, or is not the pod's any more.
    fn unguard(&mut self, uid: &Uid);
    fn report_captured(&self, uid: &Uid);
    fn report_leaving(&self, uid: &Uid);
    fn report_gone(&self, uid: &Uid);
}

/// The rest of the agent.
pub(super) struct OnNode {
    pub(super) host_cookie: u64,
    pub(super) kernel: Kernel,
    pub(super) maps: Arc<Maps>,
    pub(super) keyring: Keyring,
    pub(super) client: Client,
    pub(super) acceptor: Acceptor,
    /// What was written to the kernel.
    pub(super) ledger: Ledger,
    pub(super) repairs: Repairs,
    pub(super) world: Arc<ArcSwap<World>>,
    pub(super) settings: Arc<ArcSwap<InForce>>,
    pub(super) earlier: EarlierSockets,
    pub(super) wanted: HashMap<Uid, Wanted>,
    /// On the host's side of the pods' devices.
    pub(super) guards: Guards,
    pub(super) handle: Handle,
    /// Where the keyring's tasks run.
    pub(super) tasks: tokio::runtime::Handle,
    /// Every pod of the whole world was told.
    pub(super) told: bool,
    /// The mesh is leaving, or has left and is not back yet.
    pub(super) leaving: bool,
    /// The node was let go of: nothing is attached, and nothing may be.
    pub(super) left: bool,
}

impl OnNode {
    pub(super) fn is_kubepods(&self, id: u64) -> bool {
        self.maps.cgroup(id).is_some_and(|entry| entry.state == CgroupEntry::KUBEPODS)
    }

    /// What is the node's and no pod's: hooks, settings, the agent's own leave.
    pub(super) fn verify_hooks(&mut self, own_cgroup: u64) {
        let mut verified = || -> anyhow::Result<()> {
            if self.maps.agents().is_empty() {
                self.maps.add_agent(own_cgroup)?;
                self.repairs.count(Repaired::MapEntry, &"the agent's own leave to pass the hooks was gone");
            }
            for (name, wrong) in self.kernel.verify_hooks()? {
                self.repairs.count(Repaired::Hook, &format_args!("{name}: {wrong}"));
            }
            if self.maps.verify_settings()? {
                self.repairs.count(Repaired::MapEntry, &"the settings were others");
            }
            Ok(())
        };
        if let Err(error) = verified() {
            tracing::error!(error = format!("{error:#}"), "the node's hooks are not as they should be");
        }
    }

    /// Certificates of identities that no pod of the node has any more.
    pub(super) fn sweep_certificates(&self) {
        match self.keyring.sweep() {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed kept certificates that no pod has"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "certificates that no pod has stay on disk"
                );
            }
        }
    }
}

impl Node for OnNode {
    fn host_cookie(&self) -> u64 {
        self.host_cookie
    }

    fn is_told(&self) -> bool {
        self.told
    }

    fn is_leaving(&self) -> bool {
        self.leaving
    }

    fn set_pod(&mut self, cookie: u64, entry: PodEntry) -> Result<(), MapFailure> {
        self.maps.set_pod(cookie, entry)?;
        self.ledger.pod(cookie, Some(entry));
        Ok(())
    }

    fn remove_pod(&mut self, cookie: u64) -> Result<(), MapFailure> {
        self.ledger.pod(cookie, None);
        self.maps.remove_pod(cookie)
    }

    fn set_cgroup(&mut self, id: u64, entry: CgroupEntry) -> Result<(), MapFailure> {
        self.maps.set_cgroup(id, entry)?;
        self.ledger.cgroup(id, Some(entry));
        Ok(())
    }

    fn remove_cgroup(&mut self, id: u64) -> Result<(), MapFailure> {
        self.ledger.cgroup(id, None);
        self.maps.remove_cgroup(id)
    }

    fn set_addr(&mut self, address: IpAddr, entry: AddrEntry) -> Result<(), MapFailure> {
        self.maps.set_addr(address, entry)?;
        self.ledger.addr(address, entry);
        Ok(())
    }

    fn remove_addr(&mut self, address: IpAddr, cookie: u64) -> Result<(), MapFailure> {
        self.ledger.forget_addr(address, cookie);
        self.maps.remove_addr(address, cookie)
    }

    fn set_listener(&mut self, cookie: u64, listener: &Listener) -> Result<(), MapFailure> {
        self.maps.set_listener(listener.address, listener.port, &listener.socket)?;
        self.ledger.listener(cookie, listener);
        Ok(())
    }

    fn forget_listeners(&mut self, cookie: u64) {
        self.ledger.forget_listeners(cookie);
    }

    fn attach_pod(&mut self, netns: &Arc<Netns>) -> Result<(), String> {
        self.kernel.attach_pod(netns).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        self.ledger.lookup(netns.cookie(), Some(netns.clone()));
        Ok(())
    }

    fn detach_pod(&mut self, cookie: u64) {
        self.ledger.lookup(cookie, None);
        if let Err(error) = self.kernel.detach_pod(cookie) {
            tracing::warn!(cookie, %error, "a pod's sk_lookup hook could not be detached");
        }
    }

    fn end_earlier_capture(&mut self, cookie: u64) -> Result<(), MapFailure> {
        if self.kernel.is_attached(cookie) {
            self.maps.retain_addrs(|owner| owner != cookie)?;
            self.detach_pod(cookie);
        }
        Ok(())
    }

    fn certificate_ready(&mut self, uid: &Uid, identity: &Identity) -> bool {
        let known = self.wanted.get(uid).is_some_and(|wanted| wanted.identity() == identity);
        if !known {
            let wanted = {
                let _on_it = self.tasks.enter();
                self.keyring.want(identity)
            };
            self.wanted.insert(uid.clone(), wanted);
            let (keyring, handle) = (self.keyring.clone(), self.handle.clone());
            let (uid, identity) = (uid.clone(), identity.clone());
            self.tasks.spawn(async move {
                // An error means that nobody wants it any more.
                if keyring.ready(&identity).await.is_ok() {
                    handle.certified(uid);
                }
            });
        }
        self.keyring.certificate(identity).is_some()
    }

    fn certificate_done(&mut self, uid: &Uid) {
        self.wanted.remove(uid);
    }

    fn world_complete(&self) -> bool {
        self.world.load().is_complete()
    }

    fn settle_earlier(&self, uid: &Uid, pod: &Pod) {
        let world = self.world.load_full();
        let keep = self.settings.load().keep_pre_capture_sockets;
        if let Some(event) = earlier::settle(uid, pod, &world, keep, &self.earlier) {
            self.client.tell(event);
        }
    }

    fn accept(&self, pod: &Arc<Pod>, listeners: Vec<Listener>) {
        self.acceptor.serve(pod, listeners);
    }

    fn release(&self, uid: &Uid) {
        self.acceptor.release(uid);
    }

    fn guard(&mut self, uid: &Uid, netns: &Arc<Netns>, what: Guard<'_>) {
        if !self.left {
            self.guards.keep(uid, netns, what, &mut self.kernel, &self.maps);
        }
    }

    fn unguard(&mut self, uid: &Uid) {
        self.guards.release(uid, &mut self.kernel, &self.maps);
    }

    fn report_captured(&self, uid: &Uid) {
        self.client.report(uid.clone(), Capture::Captured);
    }

    fn report_leaving(&self, uid: &Uid) {
        self.client.report(uid.clone(), Capture::Leaving);
    }

    fn report_gone(&self, uid: &Uid) {
        self.client.report(uid.clone(), Capture::Gone { reason: String::new() });
    }
}
