//! What the controller counts: names, labels and meanings, in one place.
//!
//! Served at `/metrics` with the prefix `weft_`. No label has more values than there are reasons.

use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

/// Why a request is not signed: the words of [`SignRefusal`](crate::issue::SignRefusal).
const SIGN_REFUSALS: [&str; 3] = ["not_on_node", "bad_request", "authority"];
/// Why a caller is refused: the words of [`callers::Refusal`](crate::publish::callers::Refusal).
const UNAUTHENTICATED: [&str; 10] = [
    "no_token",
    "unknown_token",
    "malformed_token",
    "expired_token",
    "wrong_audience",
    "token_not_accepted",
    "other_service_account",
    "token_without_node",
    "other_node",
    "unavailable",
];
/// What becomes of an Event.
const OUTCOMES: [&str; 3] = ["written", "repeated", "dropped"];

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
    /// 1 while the newest state of the authority (Secret or files) is not in force.
    pub authority_rejected: Gauge,
    /// Files and objects whose newest state does not count.
    pub config_errors: Gauge,
    /// 1: this replica writes status.
    pub leader: Gauge,
    sign_refusals: Family<ReasonLabel, Counter>,
    unauthenticated: Family<ReasonLabel, Counter>,
    objects: Family<KindLabel, Gauge>,
    watch_restarts: Family<KindLabel, Counter>,
    api_errors: Family<CallLabel, Counter>,
    events: Family<OutcomeLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    verb: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// Makes them and puts them into the registry, with every word that is known: the first of something is an increase only where
    /// there was a zero before it.
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
        registry.register_by(
            &["reason"],
            "controller_sign_refusals",
            "Signing requests that were refused, by reason",
            all.sign_refusals,
        );
        registry.register_by(
            &["reason"],
            "controller_unauthenticated",
            "Calls without a good token, or for another node than the token's, by reason",
            all.unauthenticated,
        );
        registry.register(
            "controller_authority_rejected",
            "Whether the newest state of the authority is not in force: 1 or 0",
            all.authority_rejected,
        );
        registry.register(
            "controller_config_errors",
            "Files and objects whose newest state does not count",
            all.config_errors,
        );
        registry.register("controller_leader", "1 where this replica writes status", all.leader);
        registry.register_by(
            &["kind"],
            "controller_objects",
            "Objects known from the Kubernetes API, by kind",
            all.objects,
        );
        registry.register_by(
            &["kind"],
            "controller_watch_restarts",
            "Watches that were started anew after an error, by kind",
            all.watch_restarts,
        );
        registry.register_by(
            &["verb", "resource"],
            "controller_api_errors",
            "Calls of the Kubernetes API that failed, by verb and resource",
            all.api_errors,
        );
        registry.register_by(
            &["outcome"],
            "controller_events",
            "Events for people, by what became of them (written, repeated, dropped)",
            all.events,
        );
        for reason in SIGN_REFUSALS {
            drop(metrics.sign_refusals.get_or_create(&ReasonLabel { reason }));
        }
        for reason in UNAUTHENTICATED {
            drop(metrics.unauthenticated.get_or_create(&ReasonLabel { reason }));
        }
        for outcome in OUTCOMES {
            drop(metrics.events.get_or_create(&OutcomeLabel { outcome }));
        }
        metrics
    }

    /// A kind is watched from now on.
    pub fn watches(&self, kind: &'static str, resource: &str) {
        drop(self.watch_restarts.get_or_create(&KindLabel { kind }));
        for verb in ["list", "watch"] {
            drop(self.api_errors.get_or_create(&CallLabel { verb: verb.into(), resource: resource.into() }));
        }
    }

    /// A caller was refused.
    pub fn unauthenticated(&self, reason: &'static str) {
        debug_assert!(UNAUTHENTICATED.contains(&reason), "{reason} is no word that it begins with");
        self.unauthenticated.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// How many callers were refused for this reason.
    pub fn unauthenticated_by(&self, reason: &'static str) -> u64 {
        self.unauthenticated.get_or_create(&ReasonLabel { reason }).get()
    }

    /// So many objects of a kind are known.
    pub fn objects(&self, kind: &'static str, count: usize) {
        self.objects.get_or_create(&KindLabel { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A watch is started anew.
    pub fn watch_restarted(&self, kind: &'static str) {
        self.watch_restarts.get_or_create(&KindLabel { kind }).inc();
    }

    /// A call of the API failed.
    pub fn api_error(&self, verb: &str, resource: &str) {
        self.api_errors.get_or_create(&CallLabel { verb: verb.into(), resource: resource.into() }).inc();
    }

    /// What became of an Event.
    pub fn event(&self, outcome: &'static str) {
        debug_assert!(OUTCOMES.contains(&outcome), "{outcome} is no word that it begins with");
        self.events.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A signing request was refused.
    pub fn refuse(&self, reason: &'static str) {
        debug_assert!(SIGN_REFUSALS.contains(&reason), "{reason} is no word that it begins with");
        self.sign_refusals.get_or_create(&ReasonLabel { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mesh_telemetry::metrics::Exposition;

    use super::*;

    #[test]
    fn words_that_are_known_are_zero_from_the_start() {
        let mut registry = Registry::new();
        let metrics = Metrics::register(&mut registry);
        metrics.watches("Pod", "pods");
        let text = registry.render(Exposition::OpenMetrics).unwrap();
        for series in [
            r#"weft_controller_sign_refusals_total{reason="not_on_node"} 0"#,
            r#"weft_controller_unauthenticated_total{reason="expired_token"} 0"#,
            r#"weft_controller_events_total{outcome="dropped"} 0"#,
            r#"weft_controller_watch_restarts_total{kind="Pod"} 0"#,
            r#"weft_controller_api_errors_total{verb="watch",resource="pods"} 0"#,
        ] {
            assert!(text.contains(series), "{series} is not in {text}");
        }
    }

    #[test]
    fn the_documentation_says_what_the_registry_says() {
        let mut registry = Registry::new();
        let _metrics = Metrics::register(&mut registry);
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        assert!(
            registry.is_documented(&file, "controller").unwrap(),
            "docs/metrics.md is another one: WEFT_WRITE_DOCS=1 cargo test -p mesh-controller the_documentation"
        );
    }
}
