//! The actor that drives every pod of the node (see the module above).

mod leaving;
mod told;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mesh_common::CgroupEntry;
use mesh_identity::Keyring;
use mesh_model::{Uid, Workload, World};
use mesh_telemetry::api::PodRow;
use mesh_telemetry::readiness::Condition;
use mesh_xds::client::Client;
use tokio::sync::{mpsc, oneshot, watch as watch_channel};

use super::enroll::Entry;
use super::find;
use super::guards::Guards;
use super::ledger::{Ledger, Lost};
use super::listeners;
use super::local::{Local, Unguarded};
use super::on_node::{Node as _, OnNode};
use super::watch::{self, Seen, Watch};
use crate::capture::Acceptor;
use crate::kernel::maps::{Maps, cgroup_id};
use crate::kernel::{Kernel, MapFailure};
use crate::metrics::{EarlierSockets, Repaired, Repairs};
use crate::netns::Netns;
use crate::settings::{self, LeftMark};

/// How often the hooks are looked at: while one is detached, captured pods connect as if there were no mesh.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two on every pod's maps and listeners.
const PODS_EVERY: u32 = 5;
/// Looks between two on every pod's cgroup and namespace, whatever happened, and on what nobody here wrote.
const ALL_EVERY: u32 = 30;
/// Longest wait for the next pod that is to be driven.
const IDLE: Duration = Duration::from_secs(30);

/// What the actor is told at start.
#[derive(Debug)]
pub struct PodsConfig {
    /// The node's name.
    pub node: String,
    /// The cgroup2 directory below which kubelet's are.
    pub cgroup: PathBuf,
    /// Kubelet's `/var/log/pods`.
    pub pod_logs: PathBuf,
    /// What is in force; the bootstrap namespaces' pods are classified on the node alone, and never captured while the
    /// world is silent on them.
    pub settings: settings::Shared,
    /// Cookie of the host's network namespace.
    pub host_cookie: u64,
    /// The agent's own cgroup.
    pub own_cgroup: u64,
    /// Says over a restart that the mesh is leaving.
    pub mark: LeftMark,
    /// Met while this node carries the mesh.
    pub staying: Condition,
    /// What the controller last said.
    pub world: Arc<ArcSwap<World>>,
    /// Connections from before a pod's capture.
    pub earlier: EarlierSockets,
    /// The host's network namespace, where the pods' devices have their other ends.
    pub host: Arc<Netns>,
    /// What else stands in the way of direct connections, for as long as the node runs.
    pub obstacle: Option<Unguarded>,
    /// Hears which pods are captured here, and whether all are guarded.
    pub local: watch_channel::Sender<Arc<Local>>,
}

enum Input {
    Seen(Seen),
    Workloads(Vec<Arc<Workload>>),
    Removed(Vec<Uid>),
    /// The whole world is known: what it does not name is not there.
    Complete,
    Released(Vec<Uid>),
    Certified(Uid),
    /// The mesh is leaving, or stays after all.
    Leaving(bool),
    Rows(oneshot::Sender<Vec<PodRow>>),
}

/// How others speak to the actor.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::UnboundedSender<Input>,
}

impl Handle {
    fn send(&self, input: Input) {
        if self.inputs.send(input).is_err() {
            tracing::error!("the pods' actor has ended; pods are no longer taken in");
        }
    }

    /// Workloads of this node that are new or different.
    pub fn workloads(&self, workloads: Vec<Arc<Workload>>) {
        self.send(Input::Workloads(workloads));
    }

    /// Workloads, of this node or others, that the API has forgotten.
    pub fn removed(&self, uids: Vec<Uid>) {
        self.send(Input::Removed(uids));
    }

    /// Everything the controller has was said.
    pub fn complete(&self) {
        self.send(Input::Complete);
    }

    /// The peers of these leaving pods know.
    pub fn released(&self, uids: Vec<Uid>) {
        self.send(Input::Released(uids));
    }

    /// The mesh is leaving: every pod is released, and then the node; or it stays after all, and they are taken in again.
    pub fn set_leaving(&self, leaving: bool) {
        self.send(Input::Leaving(leaving));
    }

    /// The pod's certificate is there.
    pub(super) fn certified(&self, uid: Uid) {
        self.send(Input::Certified(uid));
    }

    /// What `meshctl pods` shows.
    pub async fn rows(&self) -> Vec<PodRow> {
        let (answer, rows) = oneshot::channel();
        self.send(Input::Rows(answer));
        rows.await.unwrap_or_default()
    }
}

/// Starts the actor on a thread of its own.
pub fn spawn(
    config: PodsConfig,
    watch: Watch,
    kernel: Kernel,
    maps: Arc<Maps>,
    keyring: Keyring,
    client: Client,
    acceptor: Acceptor,
    repairs: Repairs,
) -> std::io::Result<Handle> {
    let (inputs, receiver) = mpsc::unbounded_channel();
    let (seen, mut sightings) = mpsc::unbounded_channel();
    watch::spawn(watch, config.cgroup.clone(), config.pod_logs.clone(), seen)?;
    let handle = Handle { inputs };
    let forward = handle.clone();
    tokio::spawn(async move {
        while let Some(seen) = sightings.recv().await {
            forward.send(Input::Seen(seen));
        }
    });
    let node = OnNode {
        host_cookie: config.host_cookie,
        kernel,
        maps,
        keyring,
        client,
        acceptor,
        ledger: Ledger::default(),
        repairs,
        world: config.world.clone(),
        settings: config.settings.clone(),
        earlier: config.earlier.clone(),
        wanted: HashMap::new(),
        guards: Guards::new(config.host.clone()),
        handle: handle.clone(),
        tasks: tokio::runtime::Handle::current(),
        told: false,
        leaving: false,
        left: false,
    };
    // A runtime of its own, for its timers: the process may end while the actor is at work.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let away = config.settings.load().leaving;
    let mut actor = Actor {
        config,
        node,
        entries: HashMap::new(),
        again: BTreeMap::new(),
        ticket: 0,
        looks: 0,
        leaving: false,
        left: false,
        swept: false,
    };
    if away {
        actor.start_away();
    }
    std::thread::Builder::new().name("pods".into()).spawn(move || runtime.block_on(actor.run(receiver)))?;
    Ok(handle)
}

struct Actor {
    config: PodsConfig,
    node: OnNode,
    entries: HashMap<Uid, Entry>,
    /// Pods to drive again, by time; the number keeps equal times apart.
    again: BTreeMap<(Instant, u64), Uid>,
    ticket: u64,
    /// At hooks, so far.
    looks: u32,
    /// The mesh is leaving.
    leaving: bool,
    /// The node was let go of: nothing is attached.
    left: bool,
    /// All cgroups were looked at once: what is in the kernel and of none of them is a stranger's.
    swept: bool,
}

impl Actor {
    async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        let mut verify = tokio::time::interval(LOOK);
        verify.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.again.keys().next().map_or_else(|| Instant::now() + IDLE, |(at, _)| *at);
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.handle(input),
                    None => return,
                },
                () = tokio::time::sleep_until(next.into()) => self.drive_due(),
                _ = verify.tick() => self.verify(),
            }
            self.let_go_if_done();
            self.publish_local();
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Seen(seen) => self.seen(seen),
            Input::Workloads(workloads) => {
                for workload in workloads {
                    let uid = workload.uid.clone();
                    self.entry(&uid).set_workload(workload);
                    self.drive(&uid);
                }
            }
            Input::Removed(uids) => {
                for uid in uids {
                    if let Some(entry) = self.entries.get_mut(&uid) {
                        entry.set_forgotten();
                        self.drive(&uid);
                        self.drop_if_over(&uid);
                    }
                }
            }
            Input::Complete => {
                self.node.told = true;
                if self.swept {
                    self.forget_strangers();
                }
                let unnamed = self.entries.iter().filter(|(_, entry)| entry.workload().is_none());
                for uid in unnamed.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
                    self.drive(&uid);
                }
            }
            Input::Released(uids) => {
                for uid in uids {
                    if let Some(entry) = self.entries.get_mut(&uid) {
                        entry.peers_know();
                        self.drive(&uid);
                    }
                }
            }
            Input::Certified(uid) => self.drive(&uid),
            Input::Leaving(leaving) => self.set_leaving(leaving),
            Input::Rows(answer) => {
                // Who asked may have gone.
                let _gone = answer.send(self.rows());
            }
        }
    }

    fn entry(&mut self, uid: &Uid) -> &mut Entry {
        self.entries.entry(uid.clone()).or_insert_with(|| Entry::new(uid.clone()))
    }

    fn seen(&mut self, seen: Seen) {
        match seen {
            Seen::Kubepods(path) => self.kubepods(&path),
            Seen::Appeared(uid, path) => match cgroup_id(&path) {
                Ok(id) => {
                    if self.entry(&uid).cgroup_id() != Some(id) {
                        let found = self.node.maps.cgroup(id);
                        self.entry(&uid).set_cgroup(path, id, found);
                        if self.entry(&uid).workload().is_none() {
                            self.look_at_logs();
                        }
                        self.drive(&uid);
                    }
                }
                // Gone again; the watch says so too.
                Err(error) => tracing::debug!(%uid, %error, "a pod's cgroup went as it came"),
            },
            Seen::Changed(uid) => self.drive(&uid),
            Seen::Gone(uid) => {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.cgroup_gone(&mut self.node);
                    entry.drive(&mut self.node);
                    self.drop_if_over(&uid);
                }
            }
            Seen::Logged => {
                // The end of the first look at all cgroups, which a world from the disk may precede.
                if !std::mem::replace(&mut self.swept, true) {
                    if self.node.told {
                        self.forget_strangers();
                    }
                    self.come_back_if_wanted();
                }
                for uid in self.look_at_logs() {
                    self.drive(&uid);
                }
            }
        }
    }

    fn kubepods(&mut self, path: &Path) {
        let recorded = cgroup_id(path).map_err(|error| error.to_string()).and_then(|id| {
            let entry = CgroupEntry { netns_cookie: 0, state: CgroupEntry::KUBEPODS, flags: 0 };
            self.node.set_cgroup(id, entry).map_err(|error| error.to_string())
        });
        if let Err(error) = recorded {
            tracing::error!(path = %path.display(), error, "kubelet's cgroup could not be recorded");
        }
    }

    /// Pods of the bootstrap namespaces that have a cgroup and were not known as such.
    fn look_at_logs(&mut self) -> Vec<Uid> {
        let mut found = Vec::new();
        let bootstrap = self.config.settings.load().bootstrap_namespaces.clone();
        for (namespace, name, uid) in find::logged_pods(&self.config.pod_logs) {
            if !bootstrap.iter().any(|known| **known == *namespace) {
                continue;
            }
            if let Some(entry) = self.entries.get_mut(&uid)
                && entry.bootstrap().is_none()
            {
                entry.set_bootstrap(namespace, name);
                found.push(uid);
            }
        }
        found
    }

    fn drive(&mut self, uid: &Uid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Some(after) = entry.drive(&mut self.node) {
            self.ticket += 1;
            self.again.insert((Instant::now() + after, self.ticket), uid.clone());
        }
    }

    fn drive_due(&mut self) {
        let now = Instant::now();
        let later = self.again.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.again, later);
        let mut uids: Vec<Uid> = due.into_values().collect();
        uids.sort_unstable();
        uids.dedup();
        for uid in uids {
            self.drive(&uid);
        }
    }

    fn verify(&mut self) {
        self.looks += 1;
        if self.left {
            return self.come_back_if_wanted();
        }
        // A successor that is coming up, or has: what is there now is its own.
        if self.node.maps.agents().iter().any(|agent| *agent != self.config.own_cgroup) {
            tracing::debug!("another agent is here; nothing is verified");
            return;
        }
        self.node.verify_hooks(self.config.own_cgroup);
        if self.looks.is_multiple_of(PODS_EVERY) {
            let OnNode { maps, kernel, repairs, guards, .. } = &mut self.node;
            let (again, lost) = guards.verify(kernel, maps, self.looks.is_multiple_of(ALL_EVERY));
            for _ in 0..lost {
                repairs.count(Repaired::Hook, &"a guard of a pod's device");
            }
            for uid in again {
                self.drive(&uid);
            }
            let OnNode { ledger, maps, kernel, repairs, .. } = &mut self.node;
            match ledger.verify(maps, kernel, repairs) {
                Ok(lost) => lost.into_iter().for_each(|lost| self.listen_again(lost)),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "what was changed stays changed"
                    );
                }
            }
        }
        if self.looks.is_multiple_of(ALL_EVERY) {
            let uids: Vec<Uid> = self.entries.keys().cloned().collect();
            for uid in uids {
                self.drive(&uid);
            }
            if self.node.told && self.swept {
                let strangers = self.forget_strangers();
                self.node.guards.forget_strangers(&mut self.node.kernel, &self.node.maps);
                for _ in 0..strangers {
                    self.node.repairs.count(Repaired::MapEntry, &"an entry that this agent did not write");
                }
                self.node.sweep_certificates();
            }
        }
    }

    /// Opens a listener in the place of one whose socket was closed by somebody.
    fn listen_again(&mut self, lost: Lost) {
        let Lost { cookie, address, port } = lost;
        let mut pods = self.entries.values().filter_map(Entry::enrolled_pod);
        let Some(pod) = pods.find(|pod| pod.netns.cookie() == cookie).cloned() else { return };
        let opened = listeners::open_one(&pod.netns, address, port).map_err(|error| error.to_string());
        let set = opened.and_then(|listener| {
            self.node.set_listener(cookie, &listener).map_err(|error| error.to_string())?;
            self.node.accept(&pod, vec![listener]);
            Ok(())
        });
        match set {
            Ok(()) => self.node.repairs.count(
                Repaired::Listener,
                &format_args!("{address} port {port} of {} did not listen", pod.workload.name),
            ),
            Err(error) => {
                tracing::error!(%address, port, error, "a listener of a pod's cannot be opened again")
            }
        }
    }

    fn drop_if_over(&mut self, uid: &Uid) {
        if self.entries.get(uid).is_some_and(Entry::is_over) {
            self.entries.remove(uid);
            self.node.client.forget(uid);
        }
    }

    /// Forgets what is in the kernel and of no pod here: a predecessor's that went meanwhile, or written by somebody else.
    /// How much there was.
    fn forget_strangers(&mut self) -> usize {
        let cookies: HashSet<u64> = self.entries.values().filter_map(Entry::cookie).collect();
        let cgroups: HashSet<u64> = self.entries.values().filter_map(Entry::cgroup_id).collect();
        // A pod that was taken out of the mesh while no agent was here has left its addresses and its hook.
        let may_be_enrolled = self.entries.values().filter(|entry| entry.may_be_enrolled());
        let enrolled: HashSet<u64> = may_be_enrolled.filter_map(Entry::cookie).collect();
        let mut count = 0;
        let node = &mut self.node;
        let mut forget = || -> Result<(), MapFailure> {
            for cookie in node.maps.pod_cookies().into_iter().filter(|cookie| !cookies.contains(cookie)) {
                node.maps.remove_pod(cookie)?;
                count += 1;
            }
            for id in node.maps.cgroup_ids() {
                // Kubelet's own directories stay; a pod's directory that is gone took its id along.
                if !cgroups.contains(&id) && !node.is_kubepods(id) {
                    node.maps.remove_cgroup(id)?;
                    count += 1;
                }
            }
            count += node.maps.retain_addrs(|cookie| enrolled.contains(&cookie))?;
            for cookie in node.kernel.attached_pods().into_iter().filter(|cookie| !enrolled.contains(cookie))
            {
                node.detach_pod(cookie);
                count += 1;
            }
            Ok(())
        };
        if let Err(error) = forget() {
            tracing::warn!(error = &error as &dyn std::error::Error, "leftovers of a predecessor stay");
        }
        count
    }
}
