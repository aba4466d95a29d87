//! What the agent found missing or changed in the kernel, and put back.

use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// An attached program.
    Hook,
    /// One of the agent's sockets in a pod, or its place in the map of listeners.
    Listener,
    /// An entry of a map: a pod, a cgroup, the settings, the agent's own leave to pass.
    MapEntry,
    /// A pod's address.
    Address,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    what: &'static str,
}

/// Repairs so far. Clones share.
#[derive(Clone, Debug, Default)]
pub struct Repairs(Family<Labels, Counter>);

impl Repaired {
    const ALL: [Self; 4] = [Self::Hook, Self::Listener, Self::MapEntry, Self::Address];

    fn as_str(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Listener => "listener",
            Self::MapEntry => "map_entry",
            Self::Address => "address",
        }
    }
}

impl Repairs {
    /// Registers the counters, all of them from the start: zero is news too.
    pub fn register(registry: &mut Registry) -> Self {
        let repairs = Self::default();
        registry.register_by(
            &["what"],
            "repairs",
            "What was found missing or changed in the kernel and put back, by what it was",
            repairs.0.clone(),
        );
        for what in Repaired::ALL {
            drop(repairs.0.get_or_create(&Labels { what: what.as_str() }));
        }
        repairs
    }

    /// Counts one, and says so in the log.
    pub fn count(&self, what: Repaired, detail: &dyn std::fmt::Display) {
        self.0.get_or_create(&Labels { what: what.as_str() }).inc();
        tracing::warn!(what = what.as_str(), %detail, "put back what somebody took away or changed");
    }
}
