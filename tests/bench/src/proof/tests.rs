#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

fn page(opened: u64, bytes: u64, security: &str) -> String {
    let labels = format!(
        "direction=\"outbound\",security=\"{security}\",source_namespace=\"{MESH_NAMESPACE}\",\
         source_workload=\"client\",source_identity=\"spiffe://lab.weft.dev/ns/x/sa/default\",\
         destination_namespace=\"{MESH_NAMESPACE}\",destination_service=\"\""
    );
    format!(
        "# HELP weft_bytes_total Bytes.\n# TYPE weft_bytes_total counter\n\
         weft_connections_opened_total{{{labels}}} {opened}\n\
         weft_bytes_total{{flow=\"sent\",{labels}}} {bytes}\nweft_world_complete 1\nprocess_threads 4\n"
    )
}

fn measure(connections: u64, bytes: u64) -> Measure {
    Measure { units: 1.0, seconds: 1.0, bytes, connections, p50_us: None, p99_us: None }
}

fn from(page: &str) -> Carried {
    carried(&parse(page), "outbound")
}

#[test]
fn what_was_carried_is_read_from_the_page() {
    let seen = from(&page(3, 700, "mtls"));
    assert_eq!(seen, Carried { connections: 3.0, bytes: 700.0, by_kernel: 0.0, in_plain_text: 0.0 });
    assert_eq!(carried(&parse(&page(3, 700, "mtls")), "inbound"), Carried::default());
    assert_eq!(from(&page(3, 700, "plaintext")).in_plain_text, 3.0);
}

#[test]
fn too_few_connections_or_bytes_are_no_proof() {
    let seen = from(&page(3, 700, "mtls"));
    assert_eq!(judge(Path::CrossNode, &measure(3, 700), seen, seen), Ok(()));
    assert!(judge(Path::CrossNode, &measure(4, 700), seen, seen).is_err());
    assert!(judge(Path::CrossNode, &measure(3, 800), seen, seen).is_err());
    let error = judge(Path::CrossNode, &measure(3, 700), seen, Carried::default()).unwrap_err();
    assert!(error.starts_with("inbound"), "{error}");
}

#[test]
fn plain_text_is_never_the_mesh() {
    let mut seen = from(&page(3, 700, "mtls"));
    seen.in_plain_text = 1.0;
    assert!(judge(Path::SameNode, &measure(3, 700), seen, seen).is_err());
}

#[test]
fn the_kernel_may_carry_it_on_one_node_only() {
    let seen = from(&page(3, 700, "kernel"));
    assert_eq!(judge(Path::SameNode, &measure(3, 700), seen, Carried::default()), Ok(()));
    assert!(judge(Path::CrossNode, &measure(3, 700), seen, seen).is_err());
    assert!(judge(Path::SameNode, &measure(3, 900), seen, Carried::default()).is_err());
}

#[test]
fn pods_outside_the_mesh_are_found_wherever_they_appear() {
    for outside in [DIRECT_NAMESPACE, YARDSTICK_NAMESPACE] {
        let text = page(1, 1, "plaintext").replacen(MESH_NAMESPACE, outside, 1);
        assert!(parse(&text).iter().any(is_outside), "{outside}");
    }
    assert!(!parse(&page(1, 1, "mtls")).iter().any(is_outside));
}
