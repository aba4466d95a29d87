//! Connections from before a pod's capture, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_telemetry::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierOutcome {
    /// It was ended.
    Reset,
    /// It goes on, as the operator wants.
    Kept,
    /// It should have been ended and was not.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// Such connections so far. Clones share.
#[derive(Clone, Debug, Default)]
pub struct EarlierSockets {
    counts: Family<Labels, Counter>,
    /// It was said that this kernel will not end them.
    said: Arc<AtomicBool>,
}

impl EarlierOutcome {
    const ALL: [Self; 3] = [Self::Reset, Self::Kept, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Kept => "kept",
            Self::Failed => "failed",
        }
    }
}

impl EarlierSockets {
    /// Registers the counters, all of them from the start: zero is news too.
    pub fn register(registry: &mut Registry) -> Self {
        let earlier = Self::default();
        registry.register_by(
            &["outcome"],
            "pre_capture_sockets",
            "Connections into the mesh that pods opened before they were captured, by what became of them at capture",
            earlier.counts.clone(),
        );
        for outcome in EarlierOutcome::ALL {
            earlier.add(outcome, 0);
        }
        earlier
    }

    /// Counts some.
    pub fn add(&self, outcome: EarlierOutcome, count: u64) {
        self.counts.get_or_create(&Labels { outcome: outcome.as_str() }).inc_by(count);
    }

    /// Says in the log, once, what this node's kernel lacks.
    pub fn say_once(&self, error: &std::io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::error!(
                %error,
                "connections from before a capture cannot be ended on this node (CONFIG_INET_DIAG, CONFIG_INET_DIAG_DESTROY); \
                 they are counted, and go on in plaintext"
            );
        }
    }
}
