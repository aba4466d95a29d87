//! What the controller counts: names, labels and meanings, in one place.
//!
//! Served at `/metrics` with the prefix `weft_`. No label has more values than there are reasons.

use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Shared handles; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Streams of agents that are open.
    pub agents_connected: Gauge,
    /// Workloads published.
    pub workloads: Gauge,
    /// Services published.
    pub services: Gauge,
    /// Deltas sent.
    pub pushes: Counter,
    /// Deltas that agents applied.
    pub acks: Counter,
    /// Deltas that agents refused, in whole or in part.
    pub nacks: Counter,
    /// Certificates signed.
    pub signed: Counter,
    /// Calls without a good token, or for another node than the token's.
    pub unauthenticated: Counter,
    /// Files and objects whose newest state does not count.
    pub config_errors: Gauge,
    sign_refusals: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// Makes them and puts them into the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let all = metrics.clone();
        registry.register("controller_connected_agents", "Open streams of agents", all.agents_connected);
        registry.register("controller_workloads", "Workloads published", all.workloads);
        registry.register("controller_services", "Services published", all.services);
        registry.register("controller_pushes", "Deltas sent to agents", all.pushes);
        registry.register("controller_acks", "Deltas that agents applied", all.acks);
        registry.register("controller_nacks", "Deltas that agents refused, in whole or in part", all.nacks);
        registry.register("controller_signed", "Certificates signed", all.signed);
        registry.register(
            "controller_sign_refusals",
            "Signing requests that were refused, by reason",
            all.sign_refusals,
        );
        registry.register(
            "controller_unauthenticated",
            "Calls without a good token, or for another node than the token's",
            all.unauthenticated,
        );
        registry.register(
            "controller_config_errors",
            "Files and objects whose newest state does not count",
            all.config_errors,
        );
        metrics
    }

    /// A signing request was refused.
    pub fn refuse(&self, reason: &'static str) {
        self.sign_refusals.get_or_create(&ReasonLabel { reason }).inc();
    }
}
