#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

fn page(opened: u64, bytes: u64, security: &str, destination: &str) -> String {
    let labels = format!(
        "direction=\"outbound\",security=\"{security}\",source_namespace=\"{MESH_NAMESPACE}\",\
         source_workload=\"client\",source_identity=\"spiffe://lab.weft.dev/ns/x/sa/default\",\
         destination_namespace=\"{destination}\",destination_service=\"\""
    );
    format!(
        "# HELP weft_bytes_total Bytes.\n# TYPE weft_bytes_total counter\n\
         weft_connections_opened_total{{{labels}}} {opened}\n\
         weft_bytes_total{{flow=\"sent\",{labels}}} {bytes}\nweft_world_complete 1\nprocess_threads 4\n\
         weft_kernel_events_total{{event=\"direct\"}} 3\nweft_kernel_events_total{{event=\"left\"}} 7\n"
    )
}

fn measure(connections: u64, bytes: u64) -> Measure {
    Measure { units: 1.0, seconds: 1.0, bytes, connections, p50_us: None, p99_us: None }
}

const THREE: Count = Count { connections: 3.0, bytes: 700.0 };

/// What moves when three connections with 700 bytes went the way of a path.
fn moved(path: Path) -> Seen {
    let mut seen = Seen::default();
    match path {
        Path::CrossNode => {
            (seen.outbound.tunnel, seen.inbound.tunnel, seen.hooks.redirected) = (THREE, THREE, 3.0);
        }
        Path::SameNode => {
            (seen.outbound.kernel, seen.inbound.kernel) = (THREE, THREE);
            (seen.hooks.direct, seen.hooks.admitted) = (3.0, 3.0);
        }
        Path::Outside => (seen.outbound.left, seen.hooks.left) = (THREE, 3.0),
    }
    seen
}

fn without(path: Path, change: impl FnOnce(&mut Seen)) -> Result<(), String> {
    let mut seen = moved(path);
    change(&mut seen);
    judge(path, &measure(3, 700), &seen)
}

#[test]
fn what_was_carried_is_read_from_the_page() {
    let from = |security, destination| carried(&parse(&page(3, 700, security, destination)), "outbound");
    let nothing = Carried::default();
    assert_eq!(from("mtls", MESH_NAMESPACE), Carried { tunnel: THREE, ..nothing });
    assert_eq!(from("kernel", MESH_NAMESPACE), Carried { kernel: THREE, ..nothing });
    assert_eq!(from("plaintext", UNKNOWN), Carried { left: THREE, ..nothing });
    for relayed in [MESH_NAMESPACE, DIRECT_NAMESPACE] {
        assert_eq!(from("plaintext", relayed), Carried { in_plain_text: 3.0, ..nothing }, "{relayed}");
    }
    let samples = parse(&page(3, 700, "mtls", MESH_NAMESPACE));
    assert_eq!(carried(&samples, "inbound"), nothing);
    assert_eq!(hooks(&samples), Hooks { direct: 3.0, left: 7.0, ..Hooks::default() });
}

#[test]
fn each_path_is_proved_by_its_own_counters_alone() {
    for path in crate::works::PATHS {
        assert_eq!(judge(path, &measure(3, 700), &moved(path)), Ok(()), "{path}");
        assert!(judge(path, &measure(4, 700), &moved(path)).is_err(), "{path}: connections");
        assert!(judge(path, &measure(3, 800), &moved(path)).is_err(), "{path}: bytes");
        for other in crate::works::PATHS.into_iter().filter(|other| *other != path) {
            assert!(judge(path, &measure(3, 700), &moved(other)).is_err(), "{path} is not {other}");
        }
    }
}

#[test]
fn both_ends_are_looked_at() {
    let error = without(Path::CrossNode, |seen| seen.inbound.tunnel = Count::default()).unwrap_err();
    assert!(error.starts_with("inbound"), "{error}");
    let error = without(Path::SameNode, |seen| seen.hooks.admitted = 2.0).unwrap_err();
    assert!(error.contains("admitted"), "{error}");
}

#[test]
fn one_connection_that_went_another_way_is_enough() {
    for path in crate::works::PATHS {
        assert!(without(path, |seen| seen.outbound.in_plain_text = 1.0).is_err(), "{path}");
    }
    for path in [Path::SameNode, Path::Outside] {
        let error = without(path, |seen| seen.hooks.redirected = 1.0).unwrap_err();
        assert_eq!(error, "1 connects that were sent to the agent", "{path}");
    }
    assert!(without(Path::CrossNode, |seen| seen.hooks.direct = 1.0).is_err());
    assert!(without(Path::CrossNode, |seen| seen.hooks.left = 1.0).is_err());
    assert!(without(Path::SameNode, |seen| seen.outbound.tunnel.connections = 1.0).is_err());
    assert!(without(Path::Outside, |seen| seen.outbound.kernel.connections = 1.0).is_err());
}

#[test]
fn only_what_has_moved_counts() {
    let before = moved(Path::SameNode);
    assert_eq!(before.since(&before), Seen::default());
}

#[test]
fn pods_outside_the_mesh_are_found_wherever_they_dial() {
    let found = |text: &str| parse(text).iter().any(is_outside);
    for outside in [DIRECT_NAMESPACE, YARDSTICK_NAMESPACE] {
        let dials = page(1, 1, "plaintext", MESH_NAMESPACE).replacen(MESH_NAMESPACE, outside, 1);
        assert!(found(&dials), "{outside}");
        let dialled = page(1, 1, "plaintext", outside);
        assert!(!found(&dialled), "{outside}: that is for its own window to judge");
        assert!(found(&dialled.replace(MESH_NAMESPACE, "elsewhere")), "{outside}");
    }
    assert!(!found(&page(1, 1, "mtls", MESH_NAMESPACE)));
}

#[test]
fn connections_through_tunnels_are_told_by_the_end_that_counted_them() {
    assert_eq!(moved(Path::CrossNode).tunnelled_since(&Seen::default()), [3.0, 3.0]);
    assert_eq!(moved(Path::SameNode).tunnelled_since(&Seen::default()), [0.0, 0.0]);
}
