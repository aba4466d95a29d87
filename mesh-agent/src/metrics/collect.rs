//! What is read when Prometheus asks: the kernel's counters, the certificates, the pods.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use mesh_identity::Keyring;
use mesh_model::{PodState, Reason};
use mesh_telemetry::api::PodRow;
use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::kernel::maps::Maps;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabel {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IdentityLabel {
    identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FingerprintLabel {
    fingerprint: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Gauges and counters that mirror what others hold.
#[derive(Debug, Default)]
pub struct Observed {
    refused: Family<ReasonLabel, Counter>,
    events: Family<EventLabel, Counter>,
    expiry: Family<IdentityLabel, Gauge<f64, AtomicU64>>,
    requests: Family<ResultLabel, Counter>,
    root_expiry: Family<FingerprintLabel, Gauge<f64, AtomicU64>>,
    pods: Family<StateLabel, Gauge>,
    connected: Gauge,
    complete: Gauge,
    world_age: Gauge,
}

impl Observed {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let observed = Self::default();
        registry.register_by(
            &["reason"],
            "kernel_refused",
            "Connections that the kernel refused, by why, since the maps were made",
            observed.refused.clone(),
        );
        registry.register_by(
            &["event"],
            "kernel_events",
            "What the hooks did: redirected, steered, delivered, since the maps were made",
            observed.events.clone(),
        );
        registry.register_by(
            &["identity"],
            "certificate_expiry_timestamp_seconds",
            "When a certificate of this node ends or has ended, in seconds since the epoch",
            observed.expiry.clone(),
        );
        registry.register_by(
            &["result"],
            "certificate_requests",
            "Certificates asked for, by what came of it: signed or failed",
            observed.requests.clone(),
        );
        registry.register_by(
            &["fingerprint"],
            "root_expiry_timestamp_seconds",
            "When a trusted root ends, in seconds since the epoch",
            observed.root_expiry.clone(),
        );
        registry.register_by(&["state"], "pods", "Pods of this node, by state", observed.pods.clone());
        registry.register(
            "controller_connected",
            "Whether there is a stream to the controller: 1 or 0",
            observed.connected.clone(),
        );
        registry.register(
            "world_complete",
            "Whether this agent was told the whole world: 1 or 0",
            observed.complete.clone(),
        );
        registry.register(
            "world_cache_age_seconds",
            "How old the world is that was loaded from this node's disk; 0 once the controller has told what differs",
            observed.world_age.clone(),
        );
        observed
    }

    /// Says how old a world from the disk is.
    pub fn world_age(&self, seconds: Option<u64>) {
        self.world_age.set(seconds.map_or(0, |seconds| i64::try_from(seconds).unwrap_or(i64::MAX)));
    }

    /// Reads everything anew. One reader at a time (`Admin::scrapes`): series are gone while it does.
    pub fn refresh(&self, maps: &Maps, keyring: &Keyring, pods: &[PodRow], connected: bool, complete: bool) {
        // Two refusals of the kernel may share a word.
        let mut refused: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (refusal, count) in maps.refusals() {
            *refused.entry(Reason::from(refusal).as_str()).or_default() += count;
        }
        for (reason, count) in refused {
            self.refused.get_or_create(&ReasonLabel { reason }).inner().store(count, Ordering::Relaxed);
        }
        for (event, count) in maps.counters() {
            self.events.get_or_create(&EventLabel { event }).inner().store(count, Ordering::Relaxed);
        }
        self.expiry.clear();
        // One that has ended stays: that is what there is an alert for.
        for (identity, ends) in keyring.expiries() {
            let ends = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
            self.expiry
                .get_or_create(&IdentityLabel { identity: identity.to_string() })
                .set(ends.as_secs_f64());
        }
        let attempts = keyring.attempts();
        for (result, count) in [("signed", attempts.signed), ("failed", attempts.failed)] {
            self.requests.get_or_create(&ResultLabel { result }).inner().store(count, Ordering::Relaxed);
        }
        self.root_expiry.clear();
        for root in keyring.roots().infos() {
            let ends = root.not_after.duration_since(UNIX_EPOCH).unwrap_or_default();
            // Twelve digits tell any roots apart that one mesh has.
            let fingerprint = root.fingerprint.chars().take(12).collect();
            self.root_expiry.get_or_create(&FingerprintLabel { fingerprint }).set(ends.as_secs_f64());
        }
        for state in [PodState::Captured, PodState::Pending, PodState::Excluded, PodState::Unknown] {
            let count = pods.iter().filter(|pod| pod.state == state).count();
            self.pods.get_or_create(&StateLabel { state: word(state) }).set(count as i64);
        }
        self.connected.set(connected.into());
        self.complete.set(complete.into());
    }
}

fn word(state: PodState) -> &'static str {
    match state {
        PodState::Captured => "captured",
        PodState::Pending => "pending",
        PodState::Excluded => "excluded",
        PodState::Unknown => "unknown",
    }
}
