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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_common::{ServiceKey16, ServiceState};
use mesh_hbone::Pool;
use mesh_identity::Keyring;
use mesh_model::{Change, MeshSettings, Reason, Uid, Workload, World};
use mesh_telemetry::logs;
use mesh_telemetry::readiness::Condition;
use mesh_xds::client::{Client, Event, NodeEvent, Update};
use tokio::sync::mpsc;

use crate::cache::{Cached, Keeper};
use crate::kernel::exclusions::Exclusions;
use crate::kernel::lower;
use crate::kernel::maps::Maps;
use crate::outbound::{Chain, PoolKey};
use crate::pods;
use crate::settings::{self, InForce};

/// How long until rows that did not fit are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Applies what the controller says.
pub struct Control {
    /// This node's name.
    pub node: String,
    /// Published for the data path.
    pub world: Arc<ArcSwap<World>>,
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
    /// Asked again when the controller is back.
    pub keyring: Keyring,
    /// Tunnels to peers that are gone are given up.
    pub pool: Pool<PoolKey>,
    /// Met once the world is complete.
    pub known: Condition,
    /// The service rows that the kernel has.
    pub rows: HashMap<ServiceKey16, ServiceState>,
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

/// Whether the mesh is leaving, from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaving(bool);

impl Control {
    /// Follows the controller until the client is gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let mut from_cache = self.cached.is_some();
        if let Some(cached) = self.cached.take() {
            self.apply(Update::kept(cached.into_changes()), Source::Cache);
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                () = tokio::time::sleep(TRY_AGAIN), if self.unwritten => {
                    let world = self.world.load_full();
                    self.lower_services(&world);
                    continue;
                }
            };
            match event {
                Event::Connected => {
                    tracing::info!("connected to the controller");
                    self.keyring.nudge();
                }
                Event::Disconnected { error } => {
                    tracing::warn!(error, "no stream to the controller; the last known world stays in force");
                }
                Event::Update(update) => {
                    if update.complete && std::mem::take(&mut from_cache) {
                        tracing::info!("the controller has told what differs from this node's cache");
                    }
                    self.apply(update, Source::Controller);
                    if let Some(keeper) = &self.keeper {
                        keeper.changed();
                    }
                }
                Event::Released(uids) => self.pods.released(uids),
            }
        }
    }

    fn apply(&mut self, update: Update, source: Source) {
        let Update { changes, complete, receipt } = update;
        let before = self.world.load_full();
        let mut world = World::clone(&before);
        // Local endpoints and hints are measured by it.
        world.stand_on(&self.node);
        let touched: Vec<Uid> = changes.iter().filter_map(workload_of).cloned().collect();
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
        if services_touched || first {
            self.lower_services(&world);
        }
        let whole = first || complete && source == Source::Controller && !self.heard;
        self.heard |= complete && source == Source::Controller;
        let turned = if mesh_touched || whole { self.settle(&world, source) } else { None };
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
        if first {
            if let Err(error) = self.maps.change_settings(|settings| settings.world_complete = 1) {
                tracing::error!(error = %Chain(&error), "captured pods stay refused");
                return receipt.nack(error.to_string());
            }
            self.pods.complete();
            self.known.met();
            tracing::info!("the world is complete");
        }
        receipt.ack();
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
        if *before != now {
            tracing::info!(?now, "settings");
        }
        // The kernel kept what was excluded last, and may be newer than the cache.
        if source == Source::Controller || self.maps.settings().is_ok_and(|kept| kept.exclusions == 0) {
            self.exclude(mesh);
        }
        self.keep_keys(now.keys_on_disk);
        // Whoever is born while the mesh leaves is nobody's to refuse.
        let allow_unknown = now.allow_unknown_pods || now.leaving;
        let changed = self.maps.change_settings(|settings| settings.allow_unknown = allow_unknown.into());
        if let Err(error) = changed {
            tracing::error!(error = %Chain(&error), "unknown pods go on as they did");
        }
        (before.leaving != now.leaving).then_some(Leaving(now.leaving))
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

    /// A row that cannot be written costs an early refusal, never a leak: the agent decides without it.
    fn lower_services(&mut self, world: &World) {
        let mut rows = lower::services(world);
        for key in self.rows.keys().filter(|key| !rows.contains_key(key)) {
            if let Err(error) = self.maps.set_service(*key, None) {
                tracing::warn!(error = %Chain(&error), "a service's row stays");
            }
        }
        let mut failed = 0_usize;
        let mut why = None;
        rows.retain(|key, state| {
            let had = self.rows.get(key);
            if had == Some(state) {
                return true;
            }
            match self.maps.set_service(*key, Some(*state)) {
                Ok(()) => true,
                Err(error) => {
                    failed += 1;
                    why = Some(error);
                    // What the kernel has of it stays, to be replaced or removed later.
                    had.is_some_and(|had| {
                        *state = *had;
                        true
                    })
                }
            }
        });
        if let Some(error) = why
            && !self.unwritten
        {
            let reason = if error.is_full() { Reason::MapFull } else { Reason::CaptureFailed };
            tracing::warn!(
                reason = reason.as_str(), rows = failed, error = %Chain(&error),
                "services could not be recorded in the kernel; what it would refuse at connect the agent resets"
            );
        }
        if failed == 0 && self.unwritten {
            tracing::info!("all services are recorded in the kernel again");
        }
        self.unwritten = failed > 0;
        self.rows = rows;
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
        | Change::NodeRemoved(_) => None,
    }
}
