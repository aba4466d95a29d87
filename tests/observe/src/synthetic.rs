//! A mesh that is not there: every metric with every label, and values that move, as two agents and a controller in
//! Kubernetes would serve them.
//!
//! It is what dashboards and rules are run against where there is no lab, and so shows that a query *can* return data:
//! that its names and labels exist and its operators match. That a real mesh serves the same is the lab's to show.
//! Invariant: a metric that is on a dashboard is here, and what is here is in `docs/metrics.md`; tests hold both.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every agent.
    Agent,
    /// The controller.
    Controller,
    /// Both.
    Any,
}

/// What its values do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Grows by so much a second.
    Counter(f64),
    /// Stays.
    Gauge(f64),
    /// Now and so many seconds.
    Time(f64),
    /// Seconds, around this.
    Histogram(f64),
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its name, without `_bucket` and the like.
    pub name: &'static str,
    /// Who serves it.
    pub end: End,
    /// What its values do.
    pub kind: Kind,
    /// Has it the labels of a pair?
    pub pair: bool,
    /// Its other labels, one set a series.
    pub labels: &'static [&'static str],
}

/// Who talks to whom. The workload's profile, and an end outside the mesh.
const PAIRS: [&str; 5] = [
    r#"direction="outbound",security="mtls",source_namespace="shop",source_workload="till",destination_namespace="shop",destination_workload="web",destination_service="web""#,
    r#"direction="inbound",security="mtls",source_namespace="shop",source_workload="till",destination_namespace="shop",destination_workload="web",destination_service="""#,
    r#"direction="outbound",security="kernel",source_namespace="shop",source_workload="web",destination_namespace="shop",destination_workload="till",destination_service="till""#,
    r#"direction="inbound",security="plaintext",source_namespace="unknown",source_workload="unknown",destination_namespace="shop",destination_workload="web",destination_service="""#,
    r#"direction="outbound",security="plaintext",source_namespace="shop",source_workload="web",destination_namespace="unknown",destination_workload="unknown",destination_service="""#,
];
/// Upper bounds of every histogram.
const BOUNDS: [f64; 7] = [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 1.0];

const fn pairs(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Family {
    Family { name, end: End::Agent, kind, pair: true, labels }
}

const fn agent(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Family {
    Family { name, end: End::Agent, kind, pair: false, labels }
}

const fn controller(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Family {
    Family { name, end: End::Controller, kind, pair: false, labels }
}

const fn process(name: &'static str, kind: Kind) -> Family {
    Family { name, end: End::Any, kind, pair: false, labels: NONE }
}

use Kind::{Counter, Gauge, Histogram, Time};
const NONE: &[&str] = &[""];

/// Every metric there is.
pub const FAMILIES: &[Family] = &[
    pairs("weft_connections_opened_total", Counter(5.0), &[r#"verdict="allowed""#, r#"verdict="audited""#]),
    pairs(
        "weft_connections_closed_total",
        Counter(4.0),
        &[r#"reason="clean",verdict="allowed""#, r#"reason="policy_denied",verdict="denied""#],
    ),
    pairs(
        "weft_connections_failed_total",
        Counter(0.5),
        &[r#"reason="connect_refused",verdict="allowed""#, r#"reason="plaintext_refused",verdict="denied""#],
    ),
    pairs("weft_open_connections", Gauge(7.0), NONE),
    pairs("weft_bytes_total", Counter(5000.0), &[r#"flow="sent""#, r#"flow="received""#]),
    pairs("weft_connect_duration_seconds", Histogram(0.004), NONE),
    pairs("weft_tcp_rtt_seconds", Histogram(0.0004), NONE),
    pairs("weft_tcp_retransmitted_segments_total", Counter(0.2), NONE),
    agent(
        "weft_tls_handshakes_total",
        Counter(1.0),
        &[r#"role="client",result="ok""#, r#"role="server",result="untrusted_root""#],
    ),
    agent("weft_tls_handshake_duration_seconds", Histogram(0.003), &[r#"role="client""#, r#"role="server""#]),
    agent(
        "weft_policy_audits_total",
        Counter(0.3),
        &[r#"policy_namespace="shop",policy="trial",would="refuse""#],
    ),
    agent(
        "weft_kernel_refused_total",
        Counter(0.3),
        &[r#"reason="policy""#, r#"reason="map_full""#, r#"reason="bypass""#],
    ),
    agent("weft_kernel_events_total", Counter(9.0), &[r#"event="redirected""#, r#"event="events_lost""#]),
    agent(
        "weft_certificate_expiry_timestamp_seconds",
        Time(40_000.0),
        &[r#"identity="spiffe://mesh/ns/shop/sa/web""#, r#"identity="spiffe://mesh/ns/shop/sa/till""#],
    ),
    agent("weft_certificate_requests_total", Counter(0.1), &[r#"result="signed""#, r#"result="failed""#]),
    agent("weft_root_expiry_timestamp_seconds", Time(3e8), &[r#"fingerprint="9b1e5f3a9c41""#]),
    agent("weft_pods", Gauge(3.0), &[r#"state="captured""#, r#"state="pending""#, r#"state="excluded""#]),
    agent("weft_pods_not_captured", Gauge(1.0), &[r#"reason="capture_failed""#, r#"reason="istio_sidecar""#]),
    agent("weft_repairs_total", Counter(0.1), &[r#"what="hook""#, r#"what="address""#]),
    agent("weft_pre_capture_sockets_total", Counter(0.1), &[r#"outcome="reset""#, r#"outcome="kept""#]),
    agent("weft_controller_connected", Gauge(1.0), NONE),
    agent("weft_world_complete", Gauge(1.0), NONE),
    agent("weft_world_cache_age_seconds", Gauge(0.0), NONE),
    agent("weft_config_version", Gauge(12.0), NONE),
    agent("weft_config_updates_total", Counter(0.5), &[r#"result="applied""#, r#"result="refused""#]),
    agent("weft_config_timestamp_seconds", Time(-300.0), NONE),
    agent("weft_map_entries", Gauge(90.0), &[r#"map="mesh_pods""#, r#"map="mesh_policy""#]),
    agent("weft_map_max_entries", Gauge(1000.0), &[r#"map="mesh_pods""#, r#"map="mesh_policy""#]),
    agent("weft_metric_series", Gauge(400.0), NONE),
    agent("weft_metric_max_series", Gauge(20_000.0), NONE),
    agent("weft_metric_overflows_total", Counter(0.1), NONE),
    agent("weft_pool_connections", Gauge(4.0), NONE),
    agent("weft_pool_streams", Gauge(40.0), NONE),
    agent("weft_handshakes_pending", Gauge(1.0), NONE),
    agent("weft_access_log_dropped_total", Counter(0.1), NONE),
    agent("weft_runtime_workers", Gauge(2.0), NONE),
    agent("weft_runtime_tasks", Gauge(90.0), NONE),
    agent("weft_runtime_queue_depth", Gauge(1.0), NONE),
    agent("weft_runtime_busy_seconds_total", Counter(0.3), NONE),
    Family {
        name: "weft_build_info",
        end: End::Any,
        kind: Gauge(1.0),
        pair: false,
        labels: &[r#"version="0.1.0",revision="0123abcd""#],
    },
    controller("weft_controller_connected_agents", Gauge(2.0), NONE),
    controller("weft_controller_workloads", Gauge(12.0), NONE),
    controller("weft_controller_services", Gauge(4.0), NONE),
    controller("weft_controller_pushes_total", Counter(1.0), NONE),
    controller("weft_controller_acks_total", Counter(1.0), NONE),
    controller("weft_controller_nacks_total", Counter(0.1), NONE),
    controller("weft_controller_signed_total", Counter(0.2), NONE),
    controller("weft_controller_sign_refusals_total", Counter(0.1), &[r#"reason="not_on_node""#]),
    controller("weft_controller_unauthenticated_total", Counter(0.1), &[r#"reason="expired_token""#]),
    controller("weft_controller_authority_rejected", Gauge(0.0), NONE),
    controller("weft_controller_config_errors", Gauge(1.0), NONE),
    controller("weft_controller_leader", Gauge(1.0), NONE),
    controller("weft_controller_objects", Gauge(12.0), &[r#"kind="Pod""#, r#"kind="Service""#]),
    controller("weft_controller_watch_restarts_total", Counter(0.1), &[r#"kind="Pod""#]),
    controller("weft_controller_api_errors_total", Counter(0.1), &[r#"verb="patch",resource="leases""#]),
    controller(
        "weft_controller_events_total",
        Counter(0.1),
        &[r#"outcome="written""#, r#"outcome="dropped""#],
    ),
    process("process_cpu_seconds_total", Counter(0.2)),
    process("process_resident_memory_bytes", Gauge(3e7)),
    process("process_virtual_memory_bytes", Gauge(3e8)),
    process("process_threads", Gauge(5.0)),
    process("process_open_fds", Gauge(40.0)),
    process("process_max_fds", Gauge(1024.0)),
    process("process_start_time_seconds", Time(-900.0)),
];

/// Names of a family's series.
pub fn series_names(family: &Family) -> Vec<String> {
    match family.kind {
        Histogram(_) => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name)).into(),
        _ => vec![family.name.to_owned()],
    }
}

/// Labels of a family's series; also those that the profile `full` adds.
pub fn labels(family: &Family) -> Vec<String> {
    let sets = family.labels.iter().chain(PAIRS.iter().filter(|_| family.pair));
    let names = sets.flat_map(|set| set.split(',')).filter_map(|label| label.split_once('='));
    let mut labels: Vec<String> = names.map(|(name, _)| name.to_owned()).collect();
    if family.pair {
        labels.extend(["source_identity", "destination_identity"].map(str::to_owned));
    }
    labels.sort();
    labels.dedup();
    labels
}

/// What one end serves so long after it started.
pub fn exposition(end: End, running: Duration) -> String {
    let mut text = String::new();
    for family in FAMILIES.iter().filter(|family| family.end == end || family.end == End::Any) {
        let kind = match family.kind {
            Counter(_) => "counter",
            Histogram(_) => "histogram",
            Gauge(_) | Time(_) => "gauge",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {0} Made up.\n# TYPE {0} {kind}", family.name);
        for more in family.labels {
            if family.pair {
                for pair in PAIRS {
                    let comma = if more.is_empty() { "" } else { "," };
                    series(&mut text, family, &format!("{pair}{comma}{more}"), running);
                }
            } else {
                series(&mut text, family, more, running);
            }
        }
    }
    text
}

fn series(text: &mut String, family: &Family, labels: &str, running: Duration) {
    let name = family.name;
    let seconds = running.as_secs_f64();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    let value = match family.kind {
        Counter(rate) => rate * seconds,
        Gauge(value) => value,
        Time(distance) => now + distance,
        Histogram(around) => return histogram(text, name, labels, around, seconds),
    };
    let _ = match labels {
        "" => writeln!(text, "{name} {value}"),
        labels => writeln!(text, "{name}{{{labels}}} {value}"),
    };
}

fn histogram(text: &mut String, name: &str, labels: &str, around: f64, seconds: f64) {
    let comma = if labels.is_empty() { "" } else { "," };
    let count = 10.0 * seconds;
    for bound in BOUNDS {
        // More and more of them are below: half at `around`.
        let below = count * bound / (bound + around);
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {count}", count * around);
}
