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

/// What the unix socket answers.
pub fn admin_routes(
    hub: Arc<Hub>,
    trust_domain: Arc<OnceLock<TrustDomain>>,
    system_namespace: &str,
    ready: &Ready,
    registry: Arc<Registry>,
) -> Routes {
    let policies = {
        let hub = hub.clone();
        move |_request| std::future::ready(Response::json(&authorization::rows(&hub.policies())))
    };
    let world = {
        let (hub, trust_domain) = (hub.clone(), trust_domain.clone());
        let system_namespace = system_namespace.to_owned();
        move |_request| {
            std::future::ready(match trust_domain.get() {
                Some(domain) => Response::json(&hub.dump(domain.clone(), &system_namespace)),
                None => {
                    Response::unavailable("the controller does not know its trust domain yet: ask again soon")
                }
            })
        }
    };
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
