//! What the controller says of itself: status on the unix socket, metrics and readiness on TCP.

use std::sync::{Arc, OnceLock};

use mesh_model::TrustDomain;
use mesh_telemetry::api::{ControllerStatus, path};
use mesh_telemetry::http::{Response, Routes};
use mesh_telemetry::logs;
use mesh_telemetry::metrics::{self, Registry};
use mesh_telemetry::readiness::Ready;

use crate::publish::Hub;
use crate::reconcile::authorization;
use crate::watch::Asker;

/// What there is to be asked about.
#[derive(Clone)]
pub struct About {
    /// The world, and what became of it.
    pub hub: Arc<Hub>,
    /// Once it is known.
    pub trust_domain: Arc<OnceLock<TrustDomain>>,
    /// Weft's own namespace.
    pub system_namespace: String,
    /// Who follows the files, where there are any.
    pub files: Arc<OnceLock<Asker>>,
}

impl About {
    /// Back once what was written into files before is taken over.
    async fn settled(&self) {
        if let Some(files) = self.files.get() {
            files.settled().await;
        }
    }
}

/// What the unix socket answers.
pub fn admin_routes(about: About, ready: &Ready, registry: Arc<Registry>) -> Routes {
    let policies = {
        let about = about.clone();
        move |_request| {
            let about = about.clone();
            async move {
                about.settled().await;
                Response::json(&authorization::rows(&about.hub.policies()))
            }
        }
    };
    let world = {
        let about = about.clone();
        move |_request| {
            let about = about.clone();
            async move {
                about.settled().await;
                match about.trust_domain.get() {
                    Some(domain) => Response::json(&about.hub.dump(domain.clone(), &about.system_namespace)),
                    None => Response::unavailable(
                        "the controller does not know its trust domain yet: ask again soon",
                    ),
                }
            }
        }
    };
    let About { hub, trust_domain, .. } = about;
    let status = move |_request| {
        let (workloads, services) = hub.counts();
        let status = ControllerStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            trust_domain: trust_domain.get().map(TrustDomain::to_string).unwrap_or_default(),
            agents: hub.agent_rows(),
            workloads: workloads as u64,
            services: services as u64,
            files: hub.file_rows(),
        };
        std::future::ready(Response::json(&status))
    };
    let routes = metrics_routes(ready, registry)
        .get(path::STATUS, status)
        .get(path::POLICIES, policies)
        .get(path::WORLD, world);
    logs::routes(routes)
}

/// What the TCP port answers.
pub fn metrics_routes(ready: &Ready, registry: Arc<Registry>) -> Routes {
    ready_routes(ready).get("/metrics", metrics::endpoint(registry))
}

/// What the readiness port answers.
pub fn ready_routes(ready: &Ready) -> Routes {
    Routes::new()
        .get("/readyz", ready.endpoint())
        .get("/healthz", |_request| std::future::ready(Response::text("ok\n")))
}
