//! What the agent says of itself: the admin socket that `meshctl` speaks to, and metrics and readiness for the node.

mod bpf;
mod config;
mod endpoints;
mod explain;
mod inspect;
mod observe;
mod policies;
mod refused;
pub mod remote;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use mesh_common::programs;
use mesh_hbone::Pool;
use mesh_identity::Keyring;
use mesh_model::{Reason, World};
use mesh_telemetry::api::{
    ControllerLink, HookRow, KernelSummary, PodCounts, ServiceRow, Status, Timestamp, WorkloadRow,
    WorldSummary, path,
};
use mesh_telemetry::http::{Response, Routes};
use mesh_telemetry::metrics::{Exposition, Registry, Together};
use mesh_telemetry::preflight::Report;
use mesh_telemetry::readiness::Ready;
use mesh_xds::client::Client;
use tokio::sync::watch;

use crate::connections::Connections;
use crate::direct::Direct;
use crate::inbound::Inbound;
use crate::kernel::maps::Maps;
use crate::kernel::{pinned_hooks, preflight};
use crate::kubelet;
use crate::metrics::{Insides, Metrics, Observed};
use crate::outbound::PoolKey;
use crate::pods::{self, Local};
use crate::roots::RootFile;
use crate::settings;

/// Everything that is asked about.
pub struct Admin {
    /// This node's name.
    pub node: String,
    /// The controller's address, as configured.
    pub controller: String,
    /// Where the hooks are attached, and kubelet is.
    pub place: kubelet::Place,
    /// What is in force.
    pub settings: settings::Shared,
    /// Where the pins are.
    pub bpffs: PathBuf,
    /// When the agent started.
    pub started: Instant,
    /// The stream to the controller.
    pub client: Client,
    /// What it was told.
    pub world: Arc<ArcSwap<World>>,
    /// The last of it that is in force in the kernel, too, as far as there was room. Workloads, Services, policies, endpoints
    /// and explanations are of it, so that who sees one of them and then dials is not ahead of the hooks.
    pub lowered: Arc<ArcSwap<World>>,
    /// The node's pods.
    pub pods: pods::Handle,
    /// The live table.
    pub connections: Arc<Connections>,
    /// Those that no agent carries.
    pub direct: Arc<Direct>,
    /// This node's captured pods, and which are not guarded.
    pub local: watch::Receiver<Arc<Local>>,
    /// Certificates.
    pub keyring: Keyring,
    /// The file of trust anchors.
    pub root_file: Arc<RootFile>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// Metrics that are read when asked for.
    pub observed: Observed,
    /// Likewise: how the agent itself does.
    pub insides: Insides,
    /// Held from before metrics are brought up to date until they are text: whoever else asks meanwhile would find series missing.
    pub scrapes: Together,
    /// Metrics of connections.
    pub metrics: Metrics,
    /// Tunnels to other agents.
    pub pool: Pool<PoolKey>,
    /// Tunnels from them.
    pub inbound: Arc<Inbound>,
    /// When the controller was last heard to confirm the world that was found on disk at start, if one was.
    pub cached_as_of: Option<SystemTime>,
}

/// Routes of the unix socket.
pub fn admin_routes(admin: &Arc<Admin>, registry: &Arc<Registry>) -> Routes {
    let on = |admin: &Arc<Admin>| admin.clone();
    let (status, pods, connections, certs, roots, check, workloads, services, policies, explained) = (
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
        on(admin),
    );
    let routes = Routes::new()
        .get("/healthz", |_| async { Response::text("ok\n") })
        .get("/v1/status", move |_| {
            let admin = status.clone();
            async move { Response::json(&admin.status().await) }
        })
        .get("/v1/pods", move |_| {
            let admin = pods.clone();
            async move { Response::json(&admin.pods.rows().await) }
        })
        .get("/v1/connections", move |_| {
            let admin = connections.clone();
            async move {
                let mut rows = admin.connections.rows();
                let direct = admin.direct.clone();
                // It looks into the pods' namespaces.
                rows.extend(tokio::task::spawn_blocking(move || direct.rows()).await.unwrap_or_default());
                Response::json(&rows)
            }
        })
        .get("/v1/certs", move |_| {
            let admin = certs.clone();
            async move { Response::json(&admin.keyring.status()) }
        })
        .get("/v1/roots", move |_| {
            let admin = roots.clone();
            async move { Response::json(&admin.root_file.bundle(&admin.keyring.roots())) }
        })
        .get("/v1/check", move |_| {
            let admin = check.clone();
            async move { Response::json(&admin.check()) }
        })
        .get("/v1/workloads", move |_| {
            let admin = workloads.clone();
            async move { Response::json(&admin.workloads()) }
        })
        .get("/v1/services", move |_| {
            let admin = services.clone();
            async move { Response::json(&admin.services()) }
        })
        .get(path::POLICIES, move |_| {
            let admin = policies.clone();
            async move { Response::json(&policies::rows(&admin.lowered.load(), &admin.node)) }
        })
        .get(path::EXPLAIN, move |request| {
            let admin = explained.clone();
            async move { explain::answer(&admin, request.query.as_deref()) }
        });
    with_metrics(inspect::routes(routes, admin), admin, registry)
}

/// Routes of the readiness port.
pub fn ready_routes(ready: &Ready) -> Routes {
    Routes::new().get("/readyz", ready.endpoint()).get("/healthz", |_| async { Response::text("ok\n") })
}

/// Routes of the metrics port.
pub fn metrics_routes(admin: &Arc<Admin>, registry: &Arc<Registry>) -> Routes {
    with_metrics(Routes::new(), admin, registry)
}

/// On the admin socket as well, so that meshctl needs no second port.
fn with_metrics(routes: Routes, admin: &Arc<Admin>, registry: &Arc<Registry>) -> Routes {
    let admin = admin.clone();
    // What was lost before this agent started is no news.
    let _before = admin.insides.lost_since(admin.endings_lost());
    let registry = registry.clone();
    routes.get(path::METRICS, move |request| {
        let (admin, registry) = (admin.clone(), registry.clone());
        async move {
            let form = Exposition::asked(&request);
            let read = async || {
                admin.observe().await;
                // It may be megabytes, and this thread carries connections.
                let rendered = tokio::task::spawn_blocking(move || registry.answer(form)).await;
                rendered.unwrap_or_else(|_| Response::unavailable("the agent is about to stop"))
            };
            admin.scrapes.answer(form, read).await
        }
    })
}

impl Admin {
    fn check(&self) -> Report {
        let mut checks = preflight::run(&self.place.root, &self.bpffs).checks;
        checks.push(kubelet::check(&self.place, self.settings.load().kubelet_port));
        checks.push(self.local.borrow().check());
        Report::new(checks)
    }

    async fn status(&self) -> Status {
        let link = self.client.status();
        let world = self.world.load();
        let mut pods = PodCounts::default();
        for row in self.pods.rows().await {
            pods.add(row.state);
        }
        let pinned = pinned_hooks(&self.bpffs);
        let hook = |name: &str| HookRow { name: name.into(), attached: pinned.iter().any(|pin| pin == name) };
        let mut refused: BTreeMap<Reason, u64> = BTreeMap::new();
        for (refusal, count) in self.maps.refusals() {
            *refused.entry(Reason::from(refusal)).or_default() += count;
        }
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.node.clone(),
            trust_domain: world
                .workloads()
                .next()
                .map_or_else(String::new, |workload| workload.identity.trust_domain().to_string()),
            controller: ControllerLink {
                address: self.controller.clone(),
                connected: link.connected,
                since: Some(timestamp(link.since)),
                last_error: link.last_error.filter(|_| !link.connected),
            },
            world: WorldSummary {
                complete: world.is_complete(),
                workloads: world.workloads().count() as u64,
                services: world.services().count() as u64,
                cached_seconds: self.cached_age(),
            },
            pods,
            kernel: KernelSummary {
                hooks: [
                    programs::CONNECT4,
                    programs::CONNECT6,
                    programs::PEERNAME4,
                    programs::PEERNAME6,
                    programs::SOCKOPS,
                ]
                .map(hook)
                .into(),
                refused,
            },
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }

    /// How old the world from the disk is; nothing once the controller has told all that differs, or without one.
    fn cached_age(&self) -> Option<u64> {
        let as_of = self.cached_as_of.filter(|_| self.client.status().applied.is_none())?;
        Some(as_of.elapsed().unwrap_or_default().as_secs())
    }

    fn workloads(&self) -> Vec<WorkloadRow> {
        let mut rows: Vec<WorkloadRow> = self
            .lowered
            .load()
            .workloads()
            .map(|workload| WorkloadRow {
                uid: workload.uid.clone(),
                namespace: workload.namespace.to_string(),
                name: workload.name.to_string(),
                node: (!workload.node.is_empty()).then(|| workload.node.to_string()),
                addresses: workload.addresses.clone(),
                identity: workload.identity.clone(),
                enrolled: workload.enrolled,
                tunnel: workload.tunnel,
            })
            .collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        rows
    }

    fn services(&self) -> Vec<ServiceRow> {
        let mut rows: Vec<ServiceRow> =
            self.lowered.load().services().map(|service| ServiceRow::from(&**service)).collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        rows
    }
}

/// A parameter of a query, as it was sent.
fn query<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn timestamp(time: SystemTime) -> Timestamp {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}
