#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_model::{Endpoint, Phase, PortMap, Service, ServiceKey};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// The shape both ways: written exactly so, and read back the same.
fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(row: T, shape: Value) {
    assert_eq!(serde_json::to_value(&row).unwrap(), shape);
    assert_eq!(serde_json::from_value::<T>(shape).unwrap(), row);
}

fn identity(account: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

#[test]
fn pods_have_the_published_shape() {
    same(
        PodRow {
            namespace: Some("shop".into()),
            name: Some("web-0".into()),
            uid: Uid::new("11-22"),
            node: "a".into(),
            state: PodState::Captured,
            reason: None,
            identity: Some(identity("web")),
        },
        json!({
            "namespace": "shop", "name": "web-0", "uid": "11-22", "node": "a", "state": "captured", "reason": null,
            "identity": "spiffe://cluster.local/ns/shop/sa/web",
        }),
    );
    same(
        PodRow {
            namespace: None,
            name: None,
            uid: Uid::new("33"),
            node: "a".into(),
            state: PodState::Unknown,
            reason: Some(Reason::UnknownPod),
            identity: None,
        },
        json!({
            "namespace": null, "name": null, "uid": "33", "node": "a", "state": "unknown",
            "reason": "unknown_pod", "identity": null,
        }),
    );
}

#[test]
fn connections_have_the_published_shape() {
    same(
        ConnectionRow {
            id: 7,
            direction: Direction::Outbound,
            path: ConnectionPath::Tunnel,
            security: Security::Mtls,
            src: SourceEnd {
                namespace: Some("shop".into()),
                name: Some("web-0".into()),
                identity: Some(identity("web")),
                addr: "10.0.1.2:40000".parse().unwrap(),
            },
            dst: DestinationEnd {
                namespace: Some("shop".into()),
                name: Some("db-0".into()),
                service: Some("db".into()),
                identity: Some(identity("db")),
                addr: "[fd00::2]:5432".parse().unwrap(),
            },
            bytes_sent: 1,
            bytes_received: 2,
        },
        json!({
            "id": 7, "direction": "outbound", "path": "tunnel", "security": "mtls",
            "src": {"namespace": "shop", "name": "web-0", "identity": "spiffe://cluster.local/ns/shop/sa/web",
                    "addr": "10.0.1.2:40000"},
            "dst": {"namespace": "shop", "name": "db-0", "service": "db",
                    "identity": "spiffe://cluster.local/ns/shop/sa/db", "addr": "[fd00::2]:5432"},
            "bytes_sent": 1, "bytes_received": 2,
        }),
    );
}

#[test]
fn certificates_have_the_published_shape() {
    same(
        CertRow {
            identity: identity("web"),
            serial: Some("0a1b".into()),
            issuer: Some("CN=weft root".into()),
            not_before: Some(Timestamp::from_unix(1_767_225_600)),
            not_after: Some(Timestamp::from_unix(1_767_312_000)),
            state: CertState::Valid,
            last_error: None,
            next: Some(Timestamp::from_unix(1_767_268_800)),
        },
        json!({
            "identity": "spiffe://cluster.local/ns/shop/sa/web", "serial": "0a1b", "issuer": "CN=weft root",
            "not_before": "2026-01-01T00:00:00Z", "not_after": "2026-01-02T00:00:00Z", "state": "valid",
            "last_error": null, "next": "2026-01-01T12:00:00Z",
        }),
    );
    same(
        CertRow {
            identity: identity("web"),
            serial: None,
            issuer: None,
            not_before: None,
            not_after: None,
            state: CertState::Failed,
            last_error: Some("the controller refused".into()),
            next: None,
        },
        json!({
            "identity": "spiffe://cluster.local/ns/shop/sa/web", "serial": null, "issuer": null, "not_before": null,
            "not_after": null, "state": "failed", "last_error": "the controller refused",
            "next": null,
        }),
    );
}

#[test]
fn trust_bundles_have_the_published_shape() {
    same(
        TrustBundle {
            file: "/etc/weft/roots/root.pem".into(),
            error: None,
            roots: vec![RootRow {
                subject: "CN=Weft root".into(),
                fingerprint: "0a".into(),
                not_before: Timestamp::from_unix(1_767_225_600),
                not_after: Timestamp::from_unix(1_767_312_000),
            }],
        },
        json!({
            "file": "/etc/weft/roots/root.pem", "error": null,
            "roots": [{
                "subject": "CN=Weft root", "fingerprint": "0a", "not_before": "2026-01-01T00:00:00Z",
                "not_after": "2026-01-02T00:00:00Z",
            }],
        }),
    );
}

#[test]
fn the_words_in_json_are_the_words_elsewhere() {
    fn word<T: Serialize>(value: T) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().into()
    }
    for value in [Direction::Outbound, Direction::Inbound] {
        assert_eq!(word(value), value.as_str());
    }
    use ConnectionPath::{Direct, Passthrough, Plaintext, Tunnel};
    for value in [Tunnel, Direct, Plaintext, Passthrough] {
        assert_eq!(word(value), value.as_str());
    }
    for value in [Security::Mtls, Security::Plaintext, Security::Kernel] {
        assert_eq!(word(value), value.as_str());
    }
    use CertState::{Expired, Expiring, Failed, Pending, Valid};
    let states = [Valid, Expiring, Expired, Pending, Failed];
    assert_eq!(states.map(word), ["valid", "expiring", "expired", "pending", "failed"]);
    for value in states {
        assert_eq!(word(value), value.as_str());
    }
}

#[test]
fn a_workload_and_a_service_become_rows() {
    let workload = Workload {
        uid: Uid::new("11"),
        namespace: "shop".into(),
        name: "web-0".into(),
        owner: "web".into(),
        node: "".into(),
        identity: identity("web"),
        addresses: vec!["10.0.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        enrolled: true,
        left_alone: None,
        tunnel: Tunnel::Hbone,
        phase: Phase::Running,
        host_network: false,
        bindings: None,
    };
    same(
        WorkloadRow::from(&workload),
        json!({
            "uid": "11", "namespace": "shop", "name": "web-0", "node": null, "addresses": ["10.0.1.2", "fd00::2"],
            "identity": "spiffe://cluster.local/ns/shop/sa/web", "enrolled": true, "tunnel": "hbone",
        }),
    );
    let service = Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        external_addresses: vec!["192.0.2.1".parse().unwrap()],
        load_balancer_addresses: vec!["198.51.100.1".parse().unwrap()],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ports: vec![80],
        endpoints: vec![Endpoint {
            workload: Some(Uid::new("11")),
            ports: vec![PortMap { service: 80, target: 8080 }],
            node: Some("a".into()),
            for_zones: vec!["east".into()],
            ..Endpoint::at("10.0.1.2".parse().unwrap())
        }],
        affinity_seconds: 10_800,
        local_only: true,
        untouched: vec!["udp/53".parse().unwrap()],
        ..Service::bare(ServiceKey::new("shop", "web"))
    };
    same(
        ServiceRow::from(&service),
        json!({
            "namespace": "shop", "name": "web", "addresses": ["10.96.0.1"], "external_addresses": ["192.0.2.1"],
            "load_balancer_addresses": ["198.51.100.1"], "source_ranges": ["10.0.0.0/8"], "ports": [80],
            "affinity_seconds": 10_800, "local_only": true,
            "endpoints": [{"address": "10.0.1.2", "ports": [{"service": 80, "target": 8080}], "workload": "11",
                           "ready": true, "node": "a", "for_zones": ["east"], "for_nodes": []}],
            "other_proxy": null, "untouched": ["udp/53"],
        }),
    );
}

#[test]
fn an_agents_and_a_controllers_status_have_the_published_shapes() {
    let mut pods = PodCounts::default();
    pods.add(PodState::Captured);
    pods.add(PodState::Unknown);
    same(
        Status {
            version: "0.1.0".into(),
            node: "a".into(),
            trust_domain: "cluster.local".into(),
            controller: ControllerLink {
                address: "https://10.0.0.1:15010".into(),
                connected: true,
                since: Some(Timestamp::from_unix(0)),
                last_error: None,
            },
            world: WorldSummary { complete: true, workloads: 3, services: 1, cached_seconds: Some(90) },
            pods,
            kernel: KernelSummary {
                hooks: vec![HookRow { name: "mesh_connect4".into(), attached: true }],
                refused: BTreeMap::from([(Reason::UnknownPod, 4)]),
            },
            uptime_seconds: 60,
        },
        json!({
            "version": "0.1.0", "node": "a", "trust_domain": "cluster.local",
            "controller": {"address": "https://10.0.0.1:15010", "connected": true, "since": "1970-01-01T00:00:00Z",
                           "last_error": null},
            "world": {"complete": true, "workloads": 3, "services": 1, "cached_seconds": 90},
            "pods": {"captured": 1, "pending": 0, "excluded": 0, "unknown": 1},
            "kernel": {"hooks": [{"name": "mesh_connect4", "attached": true}], "refused": {"unknown_pod": 4}},
            "uptime_seconds": 60,
        }),
    );
    same(
        ControllerStatus {
            version: "0.1.0".into(),
            trust_domain: "cluster.local".into(),
            agents: vec![AgentRow {
                node: "a".into(),
                connected: true,
                version: Some("0.1.0".into()),
                acked: Some("12".into()),
                behind: 0,
                refused: Some("a map is full".into()),
            }],
            workloads: 3,
            services: 1,
            files: vec![FileRow { path: "pods.yaml".into(), error: Some("line 3: no name".into()) }],
        },
        json!({
            "version": "0.1.0", "trust_domain": "cluster.local",
            "agents": [{"node": "a", "connected": true, "version": "0.1.0", "acked": "12", "behind": 0,
                        "refused": "a map is full"}],
            "workloads": 3, "services": 1, "files": [{"path": "pods.yaml", "error": "line 3: no name"}],
        }),
    );
}

#[test]
fn a_time_is_written_as_a_date_and_read_back() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (-62_167_219_200, "0000-01-01T00:00:00Z"),
    ] {
        assert_eq!(Timestamp::from_unix(seconds).to_string(), text);
        assert_eq!(text.parse::<Timestamp>().unwrap().unix(), seconds);
    }
    assert_eq!(Timestamp::from_unix(i64::MAX).to_string(), "9999-12-31T23:59:59Z");
    for bad in [
        "",
        "2026-01-31",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01t00:00:00Z",
        "+026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Zé",
    ] {
        assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
    }
}
