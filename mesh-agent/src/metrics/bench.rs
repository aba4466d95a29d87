//! What `cargo xtask bench observe` needs of an agent, and nobody else: metrics that can be switched off while it runs, and
//! pairs that nobody is.
//!
//! ```text
//! WEFT_BENCH_METRICS=switch   SIGUSR2: connections are neither counted nor have lines in the access log;
//!                             SIGUSR1: they are counted; SIGHUP: they are counted and have lines, as MeshConfig says
//! WEFT_BENCH_PAIRS=N          at the start, connections of N workloads that there are not
//! ```
//!
//! Both are read once, at the start. Without them an agent has no handler for these signals and counts everything: what is
//! left of the switch is a load of one word. Off is: no pair is looked up, no histogram is added to, the kernel is not asked
//! what it has measured of a connection. Its plain counters go on, in a pair that nobody is shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_telemetry::api::{Direction, Security};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Metrics;
use super::key::{PairKey, Who};

const SWITCH: &str = "WEFT_BENCH_METRICS";
const PAIRS: &str = "WEFT_BENCH_PAIRS";

static OFF: AtomicBool = AtomicBool::new(false);
static SILENT: AtomicBool = AtomicBool::new(false);

/// Whether connections are not counted.
pub(crate) fn is_off() -> bool {
    OFF.load(Ordering::Relaxed)
}

/// Whether they have no lines, whatever MeshConfig says.
pub(crate) fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

impl Metrics {
    /// Does what a bench has asked for in the environment: for everybody else nothing.
    pub(super) fn serve_benches(&self) {
        if std::env::var_os(SWITCH).is_some_and(|value| value == "switch") {
            match signals() {
                Ok([mut counted, mut off, mut lines]) => {
                    tracing::warn!(
                        "what is counted and logged can be switched off ({SWITCH}): for benches alone"
                    );
                    tokio::spawn(async move {
                        loop {
                            let (is_off, is_silent) = tokio::select! {
                                Some(()) = counted.recv() => (false, true),
                                Some(()) = off.recv() => (true, true),
                                Some(()) = lines.recv() => (false, false),
                                else => return,
                            };
                            OFF.store(is_off, Ordering::Relaxed);
                            SILENT.store(is_silent, Ordering::Relaxed);
                        }
                    });
                }
                Err(error) => tracing::error!(%error, "{SWITCH} has no effect"),
            }
        }
        if let Some(count) = std::env::var(PAIRS).ok().and_then(|count| count.parse().ok()) {
            tracing::warn!(count, "counts connections that there are not ({PAIRS}): for benches alone");
            self.invent(count);
        }
    }

    /// Counts one connection to each of so many workloads that there are not: 250 a namespace.
    pub(super) fn invent(&self, count: u32) {
        fn who<'a>(namespace: &'a Arc<str>, workload: &'a Arc<str>) -> Who<'a> {
            Who { namespace: Some(namespace), workload: Some(workload), identity: None }
        }
        let (bench, client) = (Arc::from("bench"), Arc::from("client"));
        for number in 0..count {
            let namespace = format!("team-{:03}", number / 250).into();
            let workload = format!("service-{number:05}").into();
            let pair = self.pairs.pair(PairKey {
                direction: Direction::Outbound,
                security: Security::Mtls,
                source: who(&bench, &client),
                destination: who(&namespace, &workload),
                service: Some(&workload),
            });
            pair.opened.inc();
            pair.sent.inc_by(1_000);
            pair.received.inc_by(10_000);
            pair.connected_after(Duration::from_micros(300));
            pair.round_trip(Duration::from_micros(150));
            pair.closed(None);
        }
    }
}

fn signals() -> std::io::Result<[Signal; 3]> {
    Ok([
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        signal(SignalKind::hangup())?,
    ])
}
