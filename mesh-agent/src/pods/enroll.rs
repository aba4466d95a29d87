//! One pod's way into the mesh and out of it.
//!
//! ```text
//!            no label                      label, agent ready
//! unknown ──────────▶ excluded ─────────────────────────────────▶ captured
//!    │                    ▲                                         │  ▲
//!    └── label ──▶ pending ── namespace, address, certificate ──────┘  │ label again
//!                         │                                            │
//!                         └──── peers know, or 30 s ◀──── leaving ◀────┘ no label
//! captured ── another namespace in the same cgroup, or another address ──▶ pending
//! any state ── cgroup gone, or empty and the API has forgotten the pod ──▶ released
//! ```
//!
//! What the API has forgotten stays captured as long as a process lives. Peers are told that a pod is captured no more
//! only when nobody wants it in the mesh: one whose sandbox starts over, or died, is refused meanwhile, never plaintext.
//!
//! A running excluded pod goes to captured in one step, once everything is in place; a pod that was labelled before it
//! was known is refused until then. `Entry::drive` looks at what is wanted and what is there and takes the next step;
//! it is called after every event and keeps no memory of events, so a lost or doubled one does no harm.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::{AddrEntry, CgroupEntry, PodEntry};
use mesh_model::{Reason, Tunnel, Uid, Workload};
use tokio_util::sync::CancellationToken;

use super::find::{self, Sandbox};
use super::guards::Guard;
use super::listeners;
use super::on_node::Node;
use super::pod::Pod;
use super::refused::Refused;
use super::stage::{Stage, Wanted};
use crate::kernel::MapFailure;
use crate::kernel::maps::addr;
use crate::netns::{BigSegments, Netns};

mod view;

/// How long a leaving pod's listeners wait for the peers at most.
const LEAVE_AT_MOST: Duration = Duration::from_secs(30);
/// How long after its capture a running pod may no longer dial the mesh around the hooks.
const GUARD_AFTER: Duration = Duration::from_secs(1);
/// How long they go on after the peers know: for connections that were being opened at that moment.
const LEAVE_AFTER_ALL_KNOW: Duration = Duration::from_millis(500);

/// A pod of this node.
pub(super) struct Entry {
    uid: Uid,
    /// The last that the controller said; kept while the pod lives even when the API has forgotten it.
    workload: Option<Arc<Workload>>,
    /// The API knows the pod no more.
    forgotten: bool,
    /// Kubelet's log directory names a bootstrap namespace: namespace and name.
    bootstrap: Option<(String, String)>,
    cgroup: Option<(PathBuf, u64)>,
    netns: Option<Arc<Netns>>,
    /// Cookie of the namespace that a predecessor of this agent knew the pod by.
    hint: Option<u64>,
    /// Connections from before its capture have been dealt with, or are the pod's to keep: it was outside the mesh when it
    /// opened them, or captured already.
    settled: bool,
    stage: Stage,
    reason: Option<Reason>,
}

/// When a pod must be looked at again, if nothing happens before.
pub(super) type Again = Option<Duration>;

impl Entry {
    pub(super) fn new(uid: Uid) -> Self {
        Self {
            uid,
            workload: None,
            forgotten: false,
            bootstrap: None,
            cgroup: None,
            netns: None,
            hint: None,
            settled: false,
            stage: Stage::Unknown,
            reason: None,
        }
    }

    pub(super) fn set_workload(&mut self, workload: Arc<Workload>) {
        self.workload = Some(workload);
        self.forgotten = false;
    }

    /// The API has forgotten the pod: its capture ends with its cgroup, not now.
    pub(super) fn set_forgotten(&mut self) {
        self.forgotten = true;
    }

    /// Neither the node nor the API has the pod.
    pub(super) fn is_over(&self) -> bool {
        self.cgroup.is_none() && (self.forgotten || self.workload.is_none())
    }

    pub(super) fn set_bootstrap(&mut self, namespace: String, name: String) {
        self.bootstrap = Some((namespace, name));
    }

    /// The pod's cgroup, and what a predecessor of this agent left in the kernel about it: a pod that ran outside the mesh
    /// goes on so until it is taken in. One that was there before any agent does, too, until somebody says what it is.
    pub(super) fn set_cgroup(&mut self, path: PathBuf, id: u64, found: Option<CgroupEntry>) {
        self.cgroup = Some((path, id));
        let Some(found) = found else { return };
        self.hint = Some(found.netns_cookie).filter(|cookie| *cookie != 0);
        let is_earlier = found.flags & CgroupEntry::EARLIER != 0;
        self.settled =
            matches!(found.state, PodEntry::STATE_EXCLUDED | PodEntry::STATE_CAPTURED) && !is_earlier;
        if found.state == PodEntry::STATE_EXCLUDED && matches!(self.stage, Stage::Unknown) {
            self.stage = Stage::Excluded;
        }
    }

    /// The peers of a leaving pod have all been told. A word on an earlier leave, overtaken by a return to the mesh, is
    /// none: by then the peers have heard of the tunnel again.
    pub(super) fn peers_know(&mut self) {
        if self.workload.as_ref().is_some_and(|workload| workload.tunnel == Tunnel::Hbone) {
            return;
        }
        if let Stage::Leaving { until, .. } = &mut self.stage {
            *until = (*until).min(Instant::now() + LEAVE_AFTER_ALL_KNOW);
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted::of(self.workload.as_deref(), self.bootstrap.is_some(), &self.stage)
    }

    /// Takes the next step towards what is wanted.
    pub(super) fn drive(&mut self, node: &mut impl Node) -> Again {
        let Some((path, id)) = self.cgroup.clone() else {
            self.let_go(node);
            return None;
        };
        if self.forgotten && !find::is_populated(&path) {
            self.let_go(node);
            // What may still start there is nobody that is known.
            if let Err(error) = node.remove_cgroup(id) {
                tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "a cgroup stays recorded");
            }
            return None;
        }
        let wanted = match self.wanted() {
            Wanted::Captured if node.is_leaving() => Wanted::Excluded,
            wanted => wanted,
        };
        let again = match wanted {
            Wanted::Nothing => {
                self.forget_earlier(node, id);
                Ok(None)
            }
            Wanted::Excluded => self.exclude(node, &path, id),
            Wanted::Captured => self.capture(node, &path, id),
        };
        again.unwrap_or_else(|error| {
            self.reason = Some(if error.is_full() { Reason::MapFull } else { Reason::CaptureFailed });
            tracing::error!(uid = %self.uid, error = &error as &dyn std::error::Error, "a pod could not be recorded in the kernel");
            Some(Duration::from_secs(1))
        })
    }

    /// It ran before the node's first agent, and the whole world does not know it: from now on it is nobody.
    fn forget_earlier(&mut self, node: &mut impl Node, id: u64) {
        if self.settled || !matches!(self.stage, Stage::Excluded) || !node.is_told() {
            return;
        }
        match node.remove_cgroup(id) {
            Ok(()) => self.stage = Stage::Unknown,
            Err(error) => {
                tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "a cgroup stays recorded");
            }
        }
    }

    fn exclude(
        &mut self,
        node: &mut impl Node,
        path: &std::path::Path,
        id: u64,
    ) -> Result<Again, MapFailure> {
        self.reason = self.workload.as_ref().and_then(|workload| workload.left_alone);
        self.settled = true;
        match std::mem::replace(&mut self.stage, Stage::Excluded) {
            Stage::Captured(pod) => return self.leave(node, pod, id).map(Some),
            Stage::Leaving { pod, until } => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    self.stage = Stage::Leaving { pod, until };
                    return Ok(Some(left));
                }
                self.withdraw(node, &pod);
                node.report_gone(&self.uid);
                tracing::info!(uid = %self.uid, "left the mesh");
            }
            Stage::Pending => node.certificate_done(&self.uid),
            Stage::Unknown | Stage::Excluded => {}
        }
        let cookie = self.cookie().unwrap_or(0);
        node.set_cgroup(id, CgroupEntry { netns_cookie: cookie, state: PodEntry::STATE_EXCLUDED, flags: 0 })?;
        if self.workload.as_ref().is_some_and(|workload| workload.host_network) {
            return Ok(None);
        }
        // Known by its namespace too, its connects are recognised without a walk up the cgroups.
        match self.find_netns(node, path) {
            Ok(true) => {
                if let Some(netns) = &self.netns {
                    node.guard(&self.uid, netns, Guard::Others);
                }
                let cookie = self.cookie().unwrap_or(0);
                let entry = PodEntry { state: PodEntry::STATE_EXCLUDED, ..PodEntry::default() };
                node.set_pod(cookie, entry)?;
                // It was wanted by the world on the disk, and is not by the controller's.
                node.end_earlier_capture(cookie).map(|()| None)
            }
            _ => Ok(None),
        }
    }

    fn capture(
        &mut self,
        node: &mut impl Node,
        path: &std::path::Path,
        id: u64,
    ) -> Result<Again, MapFailure> {
        let is_new = matches!(self.stage, Stage::Unknown);
        let is_earlier = matches!(self.stage, Stage::Excluded) && !self.settled;
        match std::mem::replace(&mut self.stage, Stage::Pending) {
            Stage::Captured(pod) => {
                let same_sandbox = find::is_populated(path) && self.same_sandbox(node, path, &pod);
                let lacking = same_sandbox.then(|| self.lacks_addresses(&pod));
                if lacking == Some(false) {
                    node.guard(&self.uid, &pod.netns, Guard::Strict(&pod));
                    self.stage = Stage::Captured(pod);
                    return Ok(None);
                }
                // The sandbox is gone, or the pod was given another address. Its processes are refused until it is
                // taken in anew, and its peers too: nothing is said to them.
                tracing::info!(uid = %self.uid, same_sandbox, "taking a pod in anew");
                self.withdraw(node, &pod);
                if !same_sandbox {
                    self.drop_netns(node)?;
                    // Whatever was opened in the next one was opened by a labelled pod.
                    self.settled = false;
                }
            }
            Stage::Leaving { pod, .. } => {
                self.set_captured(node, &pod, id)?;
                node.guard(&self.uid, &pod.netns, Guard::Own(&pod));
                self.stage = Stage::Captured(pod);
                self.reason = None;
                node.report_captured(&self.uid);
                return Ok(Some(GUARD_AFTER));
            }
            // Until everything is in place a running pod goes on as it was, and a new one is refused.
            Stage::Excluded => self.stage = Stage::Excluded,
            Stage::Unknown | Stage::Pending => {}
        }
        // A settled one's cgroup goes on saying so, to a successor too; its namespace, below, refuses.
        if matches!(self.stage, Stage::Pending) && !self.settled {
            let entry = CgroupEntry { netns_cookie: 0, state: PodEntry::STATE_PENDING, flags: 0 };
            node.set_cgroup(id, entry)?;
        }
        let Some(workload) = self.workload.clone() else { return Ok(None) };
        // Asked for before the namespace is there: the two come at the same time.
        let certified = node.certificate_ready(&self.uid, &workload.identity);
        match self.find_netns(node, path) {
            Ok(true) => {}
            // The first process wakes the watch; from then on it is a matter of milliseconds.
            Ok(false) if !find::is_populated(path) => {
                return Ok(self.wait(Reason::NoNetns, Duration::from_secs(5)));
            }
            Ok(false) => return Ok(self.wait(Reason::NoNetns, Duration::from_millis(20))),
            Err(error) => {
                tracing::warn!(uid = %self.uid, %error, "cannot look at a pod's network namespace");
                let reason =
                    if listeners::is_exhausted(&error) { Reason::Exhausted } else { Reason::NoNetns };
                return Ok(self.wait(reason, Duration::from_millis(500)));
            }
        }
        let Some(netns) = self.netns.clone() else { return Ok(None) };
        if matches!(self.stage, Stage::Pending) {
            node.guard(&self.uid, &netns, Guard::Pending);
            let entry = PodEntry { state: PodEntry::STATE_PENDING, ..PodEntry::default() };
            node.set_pod(netns.cookie(), entry)?;
            if is_new && !self.settled {
                // A connect that passed the hooks just before has a socket by then that can be seen.
                return Ok(self.wait(Reason::NotReady, Duration::from_millis(5)));
            }
        }
        let addresses = find::own_addresses(&workload, &netns);
        if addresses.is_empty() {
            // What the Pod object says of another sandbox is followed by a word that drives the pod again.
            let soon = workload.owned_addresses().is_empty();
            return Ok(self.wait(Reason::NoAddress, Duration::from_millis(if soon { 50 } else { 1000 })));
        }
        if !certified {
            // The certificate's arrival drives the pod again.
            return Ok(self.wait(Reason::NoCertificate, Duration::from_secs(1)));
        }
        if !self.settled && !node.world_complete() {
            // Which of its connections lead into the mesh is not known yet.
            return Ok(self.wait(Reason::NoWorld, Duration::from_millis(20)));
        }
        if is_earlier {
            // It was labelled before, for all that anybody knows: what it opens now leads into the mesh, or is refused.
            self.stage = Stage::Pending;
            let entry = CgroupEntry { netns_cookie: 0, state: PodEntry::STATE_PENDING, flags: 0 };
            node.set_cgroup(id, entry)?;
            let entry = PodEntry { state: PodEntry::STATE_PENDING, ..PodEntry::default() };
            node.set_pod(netns.cookie(), entry)?;
            // A connect that passed the hooks just before has a socket by then that can be seen.
            return Ok(self.wait(Reason::NotReady, Duration::from_millis(5)));
        }
        let delivery_route = listeners::delivery_route(&netns, &addresses);
        let released = CancellationToken::new();
        let big_segments = BigSegments::keep(&netns);
        let pod = Arc::new(Pod { workload, netns, delivery_route, big_segments, addresses, released });
        match self.enroll(node, &pod, id) {
            Ok(()) => {
                tracing::info!(uid = %self.uid, identity = %pod.identity(), addresses = ?pod.addresses, "captured");
                // What a running pod dialled a moment ago is plain text, and on its way.
                let was_outside = matches!(self.stage, Stage::Excluded);
                let what = if was_outside { Guard::Own(&pod) } else { Guard::Strict(&pod) };
                node.guard(&self.uid, &pod.netns, what);
                self.stage = Stage::Captured(pod);
                self.reason = None;
                node.report_captured(&self.uid);
                Ok(was_outside.then_some(GUARD_AFTER))
            }
            Err(error) => {
                let Refused { reason, detail } = error;
                tracing::error!(uid = %self.uid, reason = reason.as_str(), error = detail, "a pod could not be captured; its connections are refused");
                self.withdraw(node, &pod);
                Ok(self.wait(reason, Duration::from_secs(1)))
            }
        }
    }

    fn wait(&mut self, reason: Reason, again: Duration) -> Again {
        self.reason = Some(reason);
        Some(again)
    }

    /// Listeners first, then what steers to them, then what sends to them.
    fn enroll(&mut self, node: &mut impl Node, pod: &Arc<Pod>, id: u64) -> Result<(), Refused> {
        if !std::mem::replace(&mut self.settled, true) {
            node.settle_earlier(&self.uid, pod);
        }
        let listeners = listeners::open(&pod.netns, &pod.addresses).map_err(|error| Refused::of(&error))?;
        for listener in &listeners {
            node.set_listener(pod.netns.cookie(), listener)?;
        }
        node.accept(pod, listeners);
        node.attach_pod(&pod.netns).map_err(|detail| Refused { reason: Reason::CaptureFailed, detail })?;
        Ok(self.set_captured(node, pod, id)?)
    }

    fn set_captured(&self, node: &mut impl Node, pod: &Pod, id: u64) -> Result<(), MapFailure> {
        let cookie = pod.netns.cookie();
        for address in &pod.addresses {
            let entry = AddrEntry { netns_cookie: cookie, state: AddrEntry::CAPTURED, reserved: 0 };
            node.set_addr(*address, entry)?;
        }
        let of_family = |v4: bool| pod.addresses.iter().find(|a| a.is_ipv4() == v4).map(|a| addr(*a));
        let entry = PodEntry {
            state: PodEntry::STATE_CAPTURED,
            reserved: 0,
            addr4: of_family(true).unwrap_or_default(),
            addr6: of_family(false).unwrap_or_default(),
        };
        node.set_pod(cookie, entry)?;
        node.set_cgroup(id, CgroupEntry { netns_cookie: cookie, state: PodEntry::STATE_CAPTURED, flags: 0 })
    }

    /// First the pod's own connects, then what arrives in plaintext; HBONE stays until the peers know.
    fn leave(&mut self, node: &mut impl Node, pod: Arc<Pod>, id: u64) -> Result<Duration, MapFailure> {
        let cookie = pod.netns.cookie();
        // Before it may dial in plain text.
        node.guard(&self.uid, &pod.netns, Guard::Others);
        let until = Instant::now() + LEAVE_AT_MOST;
        self.stage = Stage::Leaving { pod: pod.clone(), until };
        node.set_cgroup(id, CgroupEntry { netns_cookie: cookie, state: PodEntry::STATE_EXCLUDED, flags: 0 })?;
        node.set_pod(cookie, PodEntry { state: PodEntry::STATE_EXCLUDED, ..PodEntry::default() })?;
        for address in &pod.addresses {
            let entry = AddrEntry { netns_cookie: cookie, state: AddrEntry::LEAVING, reserved: 0 };
            node.set_addr(*address, entry)?;
        }
        node.report_leaving(&self.uid);
        tracing::info!(uid = %self.uid, "leaving the mesh: telling the peers");
        Ok(LEAVE_AT_MOST)
    }

    /// Takes down what `enroll` put up; what was never put up is skipped by the kernel.
    fn withdraw(&self, node: &mut impl Node, pod: &Pod) {
        let cookie = pod.netns.cookie();
        node.detach_pod(cookie);
        node.forget_listeners(cookie);
        for address in &pod.addresses {
            if let Err(error) = node.remove_addr(*address, cookie) {
                tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "an address stays recorded");
            }
        }
        // Closes the listeners, which takes them out of their map.
        pod.released.cancel();
        node.release(&self.uid);
        node.certificate_done(&self.uid);
    }

    /// The pod's cgroup is gone, or empty for good.
    fn let_go(&mut self, node: &mut impl Node) {
        match std::mem::replace(&mut self.stage, Stage::Unknown) {
            // Its address may be another pod's before the API knows: peers go on refusing until they hear of that.
            Stage::Captured(pod) => {
                self.withdraw(node, &pod);
                tracing::info!(uid = %self.uid, "let go: nothing lives in its cgroup");
            }
            Stage::Leaving { pod, .. } => {
                self.withdraw(node, &pod);
                node.report_gone(&self.uid);
                tracing::info!(uid = %self.uid, "let go on its way out of the mesh");
            }
            Stage::Pending => node.certificate_done(&self.uid),
            Stage::Unknown | Stage::Excluded => {}
        }
        self.reason = None;
        if let Err(error) = self.drop_netns(node) {
            tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "a namespace stays recorded");
        }
    }

    /// The pod's cgroup directory was removed: forgets it in the kernel; `drive` lets go of the rest.
    pub(super) fn cgroup_gone(&mut self, node: &mut impl Node) {
        if let Some((_, id)) = self.cgroup.take()
            && let Err(error) = node.remove_cgroup(id)
        {
            tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "a cgroup stays recorded");
        }
    }

    fn drop_netns(&mut self, node: &mut impl Node) -> Result<(), MapFailure> {
        match self.netns.take() {
            Some(netns) => {
                node.unguard(&self.uid);
                node.remove_pod(netns.cookie())
            }
            None => Ok(()),
        }
    }

    fn find_netns(&mut self, node: &mut impl Node, path: &std::path::Path) -> io::Result<bool> {
        let known = self.cookie().or(self.hint);
        match find::sandbox(path, node.host_cookie(), known)? {
            Sandbox::Own(netns) => {
                if self.cookie() != Some(netns.cookie()) {
                    if let Some(old) = self.netns.take()
                        && let Err(error) = node.remove_pod(old.cookie())
                    {
                        tracing::warn!(uid = %self.uid, error = &error as &dyn std::error::Error, "a namespace stays recorded");
                    }
                    self.netns = Some(Arc::new(netns));
                }
                Ok(true)
            }
            Sandbox::NotYet => Ok(self.netns.is_some()),
        }
    }

    /// Whether the Pod object names an address that the pod has and is not listened at.
    fn lacks_addresses(&self, pod: &Pod) -> bool {
        let Some(workload) = &self.workload else { return false };
        !workload.owned_addresses().is_empty()
            && find::own_addresses(workload, &pod.netns).iter().any(|address| !pod.owns(*address))
    }

    fn same_sandbox(&self, node: &impl Node, path: &std::path::Path, pod: &Pod) -> bool {
        let known = pod.netns.cookie();
        match find::sandbox(path, node.host_cookie(), Some(known)) {
            Ok(Sandbox::Own(netns)) => netns.cookie() == known,
            // Processes that cannot be looked at are no reason to let go.
            Ok(Sandbox::NotYet) | Err(_) => true,
        }
    }
}
