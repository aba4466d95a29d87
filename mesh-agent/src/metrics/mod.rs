//! The agent's metrics: every name and every label set, in one place.
//!
//! ```text
//! connections ─▶ Pair (counters of one source and destination, looked up once a connection)
//! kernel maps, keyring, pool, runtime ─▶ read when Prometheus asks
//! ```
//!
//! Labels are bounded by the mesh's own nouns: no address, no port, no path; and how many series there are by
//! `MeshConfig.spec.metrics.maxSeries`.

mod bench;
mod collect;
mod durations;
mod earlier;
mod inside;
mod key;
mod pair;
mod pairs;
mod repairs;
mod talkers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mesh_model::policy::Verdict;
use mesh_model::{MetricsProfile, Reason};
use mesh_telemetry::api::{Direction, Security};
use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

use crate::connections::About;
use pairs::{Pairs, View, Which};

pub(crate) use bench::{is_off, is_silent};
pub use collect::Observed;
pub use earlier::{EarlierOutcome, EarlierSockets};
pub use inside::{Fill, Inside, Insides};
pub use key::{Labels, PairKey};
pub use pair::Pair;
pub use pairs::Present;
pub use repairs::{Repaired, Repairs};

/// How a TLS handshake came out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    role: &'static str,
    result: &'static str,
}

/// Which end of a handshake this agent was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// What a policy in Audit mode would have changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    policy_namespace: String,
    policy: String,
    would: &'static str,
}

/// The agent's own metrics. Clones share.
#[derive(Clone, Debug)]
pub struct Metrics {
    pairs: Arc<Pairs>,
    handshakes: Family<HandshakeLabels, Counter>,
    handshake_durations: Family<RoleLabel, Histogram, Buckets>,
    audits: Family<AuditLabels, Counter>,
    /// What is counted in while a bench has metrics switched off.
    nobody: Arc<OnceLock<Arc<Pair>>>,
}

/// Makes histograms of durations.
#[derive(Clone, Copy, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(durations::bounds().filter(|bound| bound.is_finite()))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            pairs: Arc::default(),
            handshakes: Family::default(),
            handshake_durations: Family::new_with_constructor(Buckets),
            audits: Family::default(),
            nobody: Arc::default(),
        }
    }
}

/// Everything that the agent counts.
pub struct All {
    /// Connections.
    pub metrics: Metrics,
    /// What others hold.
    pub observed: Observed,
    /// How the agent itself does.
    pub insides: Insides,
    /// What was put back into the kernel.
    pub repairs: Repairs,
    /// Connections from before a capture.
    pub earlier: EarlierSockets,
}

impl All {
    /// Registers it, in the order of the documentation.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Metrics::register(registry);
        metrics.serve_benches();
        Self {
            metrics,
            observed: Observed::register(registry),
            repairs: Repairs::register(registry),
            earlier: EarlierSockets::register(registry),
            insides: Insides::register(registry),
        }
    }
}

impl Metrics {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let views = [
            ("connections_opened", "Connections that began", Which::Opened),
            (
                "connections_closed",
                "Connections that ended, by how; a clean end has the reason clean, one that a policy cut the verdict denied",
                Which::Closed,
            ),
            (
                "connections_failed",
                "Connections that were refused or never reached their destination, by why; the verdict is denied where a policy or Strict refused",
                Which::Failed,
            ),
            ("open_connections", "Connections that are open", Which::Open),
            (
                "bytes",
                "Bytes of applications, of open connections too: flow sent is from source to destination, received the way back",
                Which::Bytes,
            ),
            (
                "connect_duration_seconds",
                "How long it took from an application's connect until its destination had answered, in seconds",
                Which::Connects,
            ),
            (
                "tcp_rtt_seconds",
                "The kernel's smoothed round-trip time of connections as they ended, beyond this node's agent where one carries them, in seconds",
                Which::RoundTrips,
            ),
            (
                "tcp_retransmitted_segments",
                "TCP segments that this node sent again, of connections that ended",
                Which::Retransmits,
            ),
        ];
        for (name, help, which) in views {
            registry.register_by(which.labels(), name, help, View { pairs: metrics.pairs.clone(), which });
        }
        registry.register_by(
            &["role", "result"],
            "tls_handshakes",
            "Mutual TLS handshakes between agents, by this agent's role and how they came out",
            metrics.handshakes.clone(),
        );
        registry.register_by(
            &["role"],
            "tls_handshake_duration_seconds",
            "How long mutual TLS handshakes took that came out well, in seconds",
            metrics.handshake_durations.clone(),
        );
        registry.register_by(
            &["policy_namespace", "policy", "would"],
            "policy_audits",
            "Connections that would have been refused (or admitted) if a policy in Audit mode were enforced",
            metrics.audits.clone(),
        );
        registry.register(
            "metric_overflows",
            "How often the cap on series had no room for a pair, a histogram or a reason, which is counted under overflow",
            metrics.pairs.budget.refused.clone(),
        );
        metrics
    }

    /// What of pairs is shown, and how many series there may be.
    pub fn set(&self, profile: MetricsProfile, max_series: u32) {
        self.pairs.set(profile, max_series);
    }

    /// Series of pairs: how many there are, and may be.
    pub fn series(&self) -> (usize, usize) {
        (self.pairs.budget.used(), self.pairs.budget.max())
    }

    /// Forgets pairs of which an end is gone for a while. `present` is asked where it is time to look.
    pub fn sweep(&self, present: impl FnOnce() -> Present) {
        if self.pairs.is_sweep_due() {
            self.pairs.sweep(&present(), Instant::now());
        }
    }

    /// Counts what an Audit policy would have changed.
    pub fn audited(&self, would: &Verdict<'_>) {
        if is_off() {
            return;
        }
        let (namespace, policy) = would
            .decided_by()
            .map_or_else(Default::default, |(key, _)| (key.namespace.to_string(), key.name.to_string()));
        let would = if would.is_allowed() { "admit" } else { "refuse" };
        self.audits.get_or_create(&AuditLabels { policy_namespace: namespace, policy, would }).inc();
    }

    /// The counters for a connection.
    pub fn pair(&self, about: &About) -> Arc<Pair> {
        if is_off() {
            let nobody = || self.pairs.nobody(PairKey::of(about));
            return self.nobody.get_or_init(nobody).clone();
        }
        self.pairs.pair(PairKey::of(about))
    }

    /// The counters of what nobody knows whose it is.
    pub fn rest(&self, direction: Direction, security: Security) -> Arc<Pair> {
        self.pairs.rest(direction, security)
    }

    /// The counters with these labels; `None` where another profile is in force by now.
    pub fn labelled(&self, labels: &Labels) -> Option<Arc<Pair>> {
        self.pairs.labelled(labels)
    }

    /// Counts a connection that never began.
    pub fn failed(&self, key: PairKey<'_>, reason: Reason) {
        if !is_off() {
            self.pairs.pair(key).failed_for(reason, 1);
        }
    }

    /// Counts a handshake: `role` is `client` or `server`, `result` is `ok` or a reason.
    pub fn handshake(&self, role: &'static str, result: &'static str) {
        if !is_off() {
            self.handshakes.get_or_create(&HandshakeLabels { role, result }).inc();
        }
    }

    /// How long one took that came out well.
    pub fn handshake_took(&self, role: &'static str, took: Duration) {
        if !is_off() {
            self.handshake_durations.get_or_create(&RoleLabel { role }).observe(took.as_secs_f64());
        }
    }
}
