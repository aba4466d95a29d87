//! What the controller says, applied: the world that the data path reads, the rows that the kernel reads, and the pods
//! of this node.
//!
//! ```text
//! Update ─▶ World (a new one, published whole) ─▶ service rows ─▶ settings ─▶ this node's workloads ─▶ ack, and kept on disk
//! ```
//!
//! What an earlier process kept on disk ([`crate::cache`]) is applied first, as if the controller had said it.
//!
//! An update is acknowledged after the data path has it: the controller tells a leaving pod's agent that its peers know
//! on the strength of that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_common::Settings;
use mesh_hbone::Pool;
use mesh_identity::Keyring;
use mesh_model::{AccessLogMode, Change, MeshSettings, Reason, Uid, Workload, World};
use mesh_telemetry::logs;
use mesh_telemetry::readiness::Condition;
use mesh_xds::client::{Client, Event, NodeEvent, Update};
use tokio::sync::{mpsc, watch};

use crate::cache::{Cached, Keeper};
use crate::connections::{Connections, Touched};
use crate::direct::Direct;
use crate::kernel::exclusions::Exclusions;
use crate::kernel::lower::{Lowerer, Step};
use crate::kernel::maps::Maps;
use crate::metrics::Metrics;
use crate::outbound::{Chain, PoolKey};
use crate::pods::{self, Local};
use crate::settings::{self, InForce};

/// How long until rows that did not fit are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Applies what the controller says.
pub struct Control {
    /// This node's name.
    pub node: String,
    /// Published for the data path.
    pub world: Arc<ArcSwap<World>>,
    /// The last of them that is in force in the kernel, too: published for who asks what is.
    pub lowered: Arc<ArcSwap<World>>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// As the flags say.
    pub flags: InForce,
    /// What is in force, published for everybody.
    pub settings: settings::Shared,
    /// Hears what people are to be told.
    pub client: Client,
    /// This node's pods.
    pub pods: pods::Handle,
    /// What runs.
    pub connections: Arc<Connections>,
    /// What of it is counted, and how finely.
    pub metrics: Metrics,
    /// What runs and is carried by no agent.
    pub direct: Arc<Direct>,
    /// Asked again when the controller is back.
    pub keyring: Keyring,
    /// Tunnels to peers that are gone are given up.
    pub pool: Pool<PoolKey>,
    /// Met once the world is complete.
    pub known: Condition,
    /// What the kernel is told of Services and policies. Behind a lock because it works on threads of its own, one at a time.
    pub lowerer: Arc<Mutex<Lowerer>>,
    /// This node's captured pods, and whether all pods are guarded.
    pub local: watch::Receiver<Arc<Local>>,
    /// There are rows that the kernel has no room for.
    pub unwritten: bool,
    /// The world of an earlier process; gone once it is in force.
    pub cached: Option<Cached>,
    /// Keeps the world for the next one.
    pub keeper: Option<Keeper>,
    /// The controller has told the whole world once.
    pub heard: bool,
}

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Cache,
    Controller,
}

/// What may be different from what was lowered last; policies and this node's pods are looked at anyway.
#[derive(Clone, Copy, Debug, Default)]
struct Differs {
    services: bool,
    workloads: bool,
    /// The world is an earlier process's.
    kept: bool,
}

/// Whether the mesh is leaving, from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaving(bool);

impl Control {
    /// Follows the controller until the client is gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut from_cache = self.cached.is_some();
        if let Some(cached) = self.cached.take() {
            self.apply(Update::kept(cached.into_changes()), Source::Cache).await;
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = tokio::time::sleep(TRY_AGAIN), if self.unwritten => {
                    let world = self.world.load_full();
                    self.lower(&world, Differs { services: true, workloads: true, kept: false }).await;
                    continue;
                }
                Ok(()) = self.local.changed() => {
                    let world = self.world.load_full();
                    self.lower(&world, Differs::default()).await;
                    self.direct.recheck_soon();
                    continue;
                }
            };
            match event {
                Event::Connected => {
                    tracing::info!("connected to the controller");
                    self.keyring.nudge();
                    self.connections.sightings().tell_again();
                }
                Event::Disconnected { error } => {
                    tracing::warn!(error, "no stream to the controller; the last known world stays in force");
                }
                Event::Update(update) => {
                    if update.complete && std::mem::take(&mut from_cache) {
                        tracing::info!("the controller has told what differs from this node's cache");
                    }
                    self.apply(update, Source::Controller).await;
                    if let Some(keeper) = &self.keeper {
                        keeper.changed();
                    }
                }
                Event::Released(uids) => self.pods.released(uids),
            }
        }
    }

    async fn apply(&mut self, update: Update, source: Source) {
        let Update { changes, complete, receipt } = update;
        let before = self.world.load_full();
        let mut world = World::clone(&before);
        // Local endpoints and hints are measured by it.
        world.stand_on(&self.node);
        let touched: Vec<Uid> = changes.iter().filter_map(workload_of).cloned().collect();
        let policies_touched =
            changes.iter().any(|change| matches!(change, Change::Policy(_) | Change::PolicyRemoved(_)));
        let mesh_touched = changes.iter().any(|c| matches!(c, Change::Mesh(_) | Change::MeshRemoved));
        // A node's zone says which endpoints are for it.
        let mut services_touched = changes.iter().any(|change| {
            matches!(
                change,
                Change::Service(_) | Change::ServiceRemoved(_) | Change::Node(_) | Change::NodeRemoved(_)
            )
        });
        for change in changes {
            world.apply(change);
        }
        let first = complete && !world.is_complete();
        if complete {
            world.set_complete();
        }
        // A pod's address is no Service's external one any more, or is one again.
        services_touched =
            services_touched || touched.iter().any(|uid| takes_an_outer_address(&before, &world, uid));
        let world = Arc::new(world);
        self.world.store(world.clone());
        let whole = first || complete && source == Source::Controller && !self.heard;
        let differs = Differs {
            services: services_touched || first,
            workloads: !touched.is_empty() || first,
            kept: source == Source::Cache,
        };
        self.lower(&world, differs).await;
        self.heard |= complete && source == Source::Controller;
        let turned = if mesh_touched || whole { self.settle(&world, source) } else { None };
        if world.is_complete() {
            self.direct.begin_counting();
        }
        // Before the pods: none is taken in by a mesh that is leaving.
        if turned == Some(Leaving(true)) {
            self.pods.set_leaving(true);
        }
        let own: Vec<Arc<Workload>> = touched
            .iter()
            .filter_map(|uid| world.workload(uid))
            .filter(|workload| *workload.node == *self.node)
            .cloned()
            .collect();
        if !own.is_empty() {
            self.pods.workloads(own);
        }
        let removed: Vec<Uid> = touched.iter().filter(|uid| world.workload(uid).is_none()).cloned().collect();
        if !removed.is_empty() {
            self.pods.removed(removed);
        }
        // After them: when the hooks are attached again, everybody who runs is known.
        if turned == Some(Leaving(false)) {
            self.pods.set_leaving(false);
        }
        // Gone, out of the mesh, or no longer there: what runs lives on, nothing new begins.
        self.pool.evict(|key| {
            touched.contains(key.destination())
                && !world.workload(key.destination()).is_some_and(|peer| {
                    peer.tunnel.is_hbone() && peer.owned_addresses().contains(&key.address())
                })
        });
        self.recheck(&world, policies_touched || mesh_touched, &touched);
        if first && let Err(error) = self.maps.change_settings(|settings| settings.world_complete = 1) {
            tracing::error!(error = %Chain(&error), "captured pods stay refused");
            return receipt.nack(error.to_string());
        }
        self.lowered.store(world);
        if first {
            self.pods.complete();
            self.known.met();
            tracing::info!("the world is complete");
        }
        receipt.ack();
    }

    /// Ends what runs and is no longer admitted. What begins from here on is judged by the new world.
    fn recheck(&self, world: &World, all: bool, touched: &[Uid]) {
        if all || !touched.is_empty() {
            self.direct.recheck_soon();
        }
        let uids: HashSet<Uid> = touched.iter().cloned().collect();
        let touched = if all { Touched::All } else { Touched::Workloads(&uids) };
        if all || !uids.is_empty() {
            let cut = self.connections.recheck(world, touched);
            if cut > 0 {
                tracing::info!(connections = cut, "closed what is no longer admitted");
            }
        }
    }

    /// Has what the operator set in force from here on, and what the operator does not say any more as the flags have it.
    /// Returns whether the mesh is leaving if that is different.
    ///
    /// A mesh that is leaving leaves all the same when its configuration goes: that is what `helm uninstall` deletes next, and
    /// who took the pods in again then would leave them to an agent that is about to be deleted, too. Only another
    /// configuration, from the controller, says that it stays: a cache is from before.
    fn settle(&mut self, world: &World, source: Source) -> Option<Leaving> {
        let mesh = world.mesh().map(Arc::as_ref);
        let mut now = self.flags.overlaid(mesh);
        let stays_so = source == Source::Cache || mesh.is_none();
        now.leaving |= stays_so && self.settings.load().leaving;
        let before = self.settings.swap(Arc::new(now.clone()));
        logs::set_format(now.log_format);
        self.metrics.set(now.metrics.profile, now.metrics.max_series);
        if *before != now {
            tracing::info!(?now, "settings");
        }
        // The kernel kept what was excluded last, and may be newer than the cache.
        if source == Source::Controller || self.maps.settings().is_ok_and(|kept| kept.exclusions == 0) {
            self.exclude(mesh);
        }
        self.follow_ends(now.access_log.mode);
        self.keep_keys(now.keys_on_disk);
        // Whoever is born while the mesh leaves is nobody's to refuse.
        let allow_unknown = now.allow_unknown_pods || now.leaving;
        let changed = self.maps.change_settings(|settings| settings.allow_unknown = allow_unknown.into());
        if let Err(error) = changed {
            tracing::error!(error = %Chain(&error), "unknown pods go on as they did");
        }
        (before.leaving != now.leaving).then_some(Leaving(now.leaving))
    }

    /// Which ends of connections that no agent carries the kernel tells of.
    fn follow_ends(&self, mode: AccessLogMode) {
        let wanted = match mode {
            AccessLogMode::Off => 0,
            AccessLogMode::Refused => Settings::FAILURES,
            AccessLogMode::All => Settings::FAILURES | Settings::ENDINGS,
        };
        let change = |settings: &mut Settings| {
            settings.flags = settings.flags & !(Settings::FAILURES | Settings::ENDINGS) | wanted;
        };
        if let Err(error) = self.maps.change_settings(change) {
            tracing::error!(%error, "connections that no agent carries have no lines in the access log");
        }
    }

    /// Where there is nothing to change, nothing is done. The disk may be slow: nobody waits for it.
    fn keep_keys(&self, on_disk: bool) {
        let (keyring, client) = (self.keyring.clone(), self.client.clone());
        tokio::task::spawn_blocking(move || {
            let Err(error) = keyring.keep_on_disk(on_disk) else { return };
            let note = format!("keyCache: {}", Chain(&error));
            tracing::error!("{note}");
            client.tell(NodeEvent { uid: None, reason: "KeyCacheFailed".into(), note, warning: true });
        });
    }

    /// What cannot be excluded leaves what is excluded already as it was.
    fn exclude(&self, mesh: Option<&MeshSettings>) {
        let none = MeshSettings::default();
        let exclusions = match Exclusions::of(mesh.unwrap_or(&none)) {
            Ok(exclusions) => exclusions,
            Err(error) => {
                tracing::error!("{error}; the exclusions from before stay in force");
                self.client.tell(NodeEvent {
                    uid: None,
                    reason: "TooManyExclusions".into(),
                    note: format!("{error}; the exclusions from before stay in force"),
                    warning: true,
                });
                return;
            }
        };
        match self.maps.exclude(&exclusions) {
            Ok(false) => {}
            Ok(true) => {
                let (networks, ports) = exclusions.counts();
                tracing::info!(networks, ports, "excluded destinations of captured pods");
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the exclusions from before stay in force");
            }
        }
    }

    /// Writes what the hooks look up. What cannot be written is the agent's to decide. Whoever waits for it has it in the kernel;
    /// the runtime's other tasks go on meanwhile, since a new policy may take a while to be judged for everybody.
    async fn lower(&mut self, world: &Arc<World>, differs: Differs) {
        if !world.is_complete() {
            return;
        }
        let local = self.local.borrow_and_update().clone();
        let (lowerer, maps, of, here) =
            (self.lowerer.clone(), self.maps.clone(), world.clone(), local.clone());
        let lowered = tokio::task::spawn_blocking(move || {
            let mut lowerer = lowerer.lock().unwrap_or_else(PoisonError::into_inner);
            let step = Step {
                world: &of,
                pods: &here.pods,
                pods_whole: here.whole,
                services: differs.services,
                workloads: differs.workloads,
                kept: differs.kept,
            };
            let unsettle = || maps.change_settings(|settings| settings.flags &= !Settings::SETTLED);
            let done = lowerer.lower(&step, unsettle);
            (done, lowerer.is_settled(), lowerer.lacking())
        });
        let (done, settled, lacking) = match lowered.await {
            Ok(lowered) => lowered,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Nothing runs any more.
                Err(_) => return,
            },
        };
        let tunnel = world.mesh().and_then(|mesh| mesh.same_node_tunnel).unwrap_or(false);
        let set = self.maps.change_settings(|settings| {
            // Until all pods are known, what a predecessor saw of them holds.
            let guarded = match local.whole {
                true => local.unguarded.is_empty(),
                false => settings.flags & Settings::DIRECT != 0,
            };
            let direct = guarded && !tunnel;
            let told = settings.flags & (Settings::ENDINGS | Settings::FAILURES);
            settings.flags =
                told | (u32::from(direct) * Settings::DIRECT) | (u32::from(settled) * Settings::SETTLED);
        });
        let failed = done.is_err() || set.is_err();
        match done {
            Ok(work) => tracing::debug!(?work, "lowered"),
            Err(error) => tracing::error!(error = %Chain(&error), "Services stay as they are in the kernel"),
        }
        if let Err(error) = set {
            tracing::error!(error = %Chain(&error), "what goes directly, and what is left as it is, stays so");
        }
        let lacking: Vec<_> = lacking.into_iter().filter(|(_, rows, _)| *rows > 0).collect();
        for (map, rows, error) in &lacking {
            let Some(error) = error.as_ref().filter(|_| !self.unwritten) else { continue };
            let reason = if error.is_full() { Reason::MapFull } else { Reason::CaptureFailed };
            tracing::warn!(
                reason = reason.as_str(), map, rows, error = %Chain(error),
                "rows could not be recorded in the kernel; what they would settle the agent decides"
            );
        }
        let unwritten = failed || !lacking.is_empty();
        if self.unwritten && !unwritten {
            tracing::info!("everything is recorded in the kernel again");
        }
        self.unwritten = unwritten;
    }
}

/// Whether a workload came by or lost an address that is also an external or load balancer's address of a Service.
fn takes_an_outer_address(before: &World, after: &World, uid: &Uid) -> bool {
    let addresses =
        |world: &World| world.workload(uid).map_or_else(Vec::new, |w| w.owned_addresses().to_vec());
    let (old, new) = (addresses(before), addresses(after));
    old != new && old.iter().chain(&new).any(|address| after.is_outer_address(*address))
}

fn workload_of(change: &Change) -> Option<&Uid> {
    match change {
        Change::Workload(workload) => Some(&workload.uid),
        Change::WorkloadRemoved(uid) => Some(uid),
        Change::Service(_)
        | Change::ServiceRemoved(_)
        | Change::Mesh(_)
        | Change::MeshRemoved
        | Change::Node(_)
        | Change::NodeRemoved(_)
        | Change::Policy(_)
        | Change::PolicyRemoved(_) => None,
    }
}
