#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_telemetry::api::{
    CertRow, ConnectionRow, ControllerStatus, PodRow, ServiceRow, Status, Timestamp, WorkloadRow,
};
use mesh_telemetry::preflight::{Check, Report};
use serde_json::json;

use super::*;
use crate::args::ConnectionSort;

const PLAIN: Style = Style { colours: false, wide: false, no_headers: false, width: None };

fn rows<T: DeserializeOwned>(value: Value) -> Vec<Row<T>> {
    let values: Vec<Value> = serde_json::from_value(value).unwrap();
    values.into_iter().map(|raw| Row { row: serde_json::from_value(raw.clone()).unwrap(), raw }).collect()
}

fn spiffe(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

fn connection(id: u64, bytes: u64, path: &str, security: &str, name: Option<&str>) -> Value {
    json!({
        "id": id, "direction": "outbound", "path": path, "security": security,
        "src": {"namespace": "shop", "name": "web-0", "identity": spiffe("web"), "addr": "10.0.1.2:40000"},
        "dst": {"namespace": name.map(|_| "shop"), "name": name, "service": name.map(|_| "db"),
                "identity": name.map(spiffe), "addr": "[fd00::2]:5432"},
        "bytes_sent": bytes, "bytes_received": 3_000_000,
    })
}

#[test]
fn pods_are_a_table() {
    let rows = rows::<PodRow>(json!([
        {"namespace": "shop", "name": "web-0", "uid": "11", "node": "a", "state": "captured", "reason": null,
         "identity": spiffe("web")},
        {"namespace": null, "name": null, "uid": "22", "node": "a", "state": "unknown", "reason": "unknown_pod",
         "identity": null},
    ]));
    let expected = "\
NAMESPACE   NAME     STATE      REASON        IDENTITY                             UID
shop        web-0    captured   <none>        spiffe://cluster.local/ns/shop/sa/web   11
<none>      <none>   unknown    unknown_pod   <none>                               22
";
    let expected = expected
        .replace("IDENTITY                             UID", "IDENTITY                                UID")
        .replace("<none>                               22", "<none>                                  22");
    assert_eq!(pods::table(&rows).render(PLAIN), expected);
}

#[test]
fn connections_are_a_table() {
    let rows = rows::<ConnectionRow>(json!([
        connection(1, 512, "tunnel", "mtls", Some("db-0")),
        connection(2, 2048, "passthrough", "plaintext", None),
    ]));
    let expected = "\
ID   DIRECTION   PATH          SECURITY    SOURCE       DESTINATION      SERVICE   PEER                                     SENT    RECEIVED
1    outbound    tunnel        mtls        shop/web-0   shop/db-0:5432   db        spiffe://cluster.local/ns/shop/sa/db-0   512     2.9Mi
2    outbound    passthrough   plaintext   shop/web-0   [fd00::2]:5432   <none>    <none>                                   2.0Ki   2.9Mi
";
    assert_eq!(connections::table(&rows).render(PLAIN), expected);
}

#[test]
fn connections_are_sorted_as_asked() {
    let order = |by| {
        let mut rows = rows::<ConnectionRow>(json!([
            connection(3, 5, "passthrough", "plaintext", None),
            connection(1, 5, "direct", "kernel", Some("db-1")),
            connection(2, 9, "tunnel", "mtls", Some("db-0")),
        ]));
        connections::sort(&mut rows, by);
        rows.iter().map(|row| row.row.id).collect::<Vec<_>>()
    };
    assert_eq!(order(ConnectionSort::Id), [1, 2, 3]);
    assert_eq!(order(ConnectionSort::Bytes), [2, 1, 3]);
    assert_eq!(order(ConnectionSort::Source), [1, 2, 3]);
    assert_eq!(order(ConnectionSort::Destination), [3, 2, 1]);
    assert_eq!(order(ConnectionSort::Path), [2, 1, 3]);
}

#[test]
fn a_screen_shows_the_top_of_a_watch_and_how_much_there_is_below() {
    let text = "1\n2\n3\n4\n5\n";
    assert_eq!(connections::top(text, 7), text);
    assert_eq!(connections::top(text, 5), "1\n2\n3\n… 2 more\n");
    assert_eq!(connections::top(text, 0), "1\n… 4 more\n");
}

#[test]
fn certificates_say_when_they_run_out() {
    let with = |account: &str, serial: &str, not_after: &str, state: &str, last_error: Option<&str>| {
        json!({"identity": spiffe(account), "serial": serial, "issuer": "CN=weft",
               "not_before": "2026-01-01T00:00:00Z", "not_after": not_after, "state": state,
               "last_error": last_error, "next": "2026-01-01T18:00:00Z"})
    };
    let without = |account: &str, state: &str, last_error: Option<&str>| {
        json!({"identity": spiffe(account), "serial": null, "issuer": null, "not_before": null,
               "not_after": null, "state": state, "last_error": last_error})
    };
    let rows = rows::<CertRow>(json!([
        with("a", "0a1b", "2026-01-02T00:00:00Z", "valid", None),
        with("b", "2c", "2026-01-01T13:00:00Z", "expiring", Some("no controller")),
        with("c", "3d", "2026-01-01T11:00:00Z", "expired", Some("no controller")),
        without("d", "pending", None),
        without("e", "failed", Some("no controller")),
    ]));
    let expected = "\
IDENTITY                              STATE      EXPIRES   NOT-AFTER              NEXT     SERIAL   ISSUER    LAST-ERROR
spiffe://cluster.local/ns/shop/sa/a   valid      in 12h    2026-01-02T00:00:00Z   in 6h    0a1b     CN=weft   <none>
spiffe://cluster.local/ns/shop/sa/b   expiring   in 1h     2026-01-01T13:00:00Z   in 6h    2c       CN=weft   no controller
spiffe://cluster.local/ns/shop/sa/c   expired    1h ago    2026-01-01T11:00:00Z   in 6h    3d       CN=weft   no controller
spiffe://cluster.local/ns/shop/sa/d   pending    <none>    <none>                 <none>   <none>   <none>    <none>
spiffe://cluster.local/ns/shop/sa/e   failed     <none>    <none>                 <none>   <none>   <none>    no controller
";
    let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    assert_eq!(certs::table(&rows, now).render(Style { wide: true, ..PLAIN }), expected);
    let colours = certs::table(&rows, now).render(Style { colours: true, ..PLAIN });
    for word in ["\x1b[32mvalid", "\x1b[33mexpiring", "\x1b[31mexpired", "\x1b[33mpending", "\x1b[31mfailed"]
    {
        assert!(colours.contains(word), "{word:?} in {colours:?}");
    }
}

#[test]
fn workloads_and_services_are_tables() {
    let workload_rows = rows::<WorkloadRow>(json!([
        {"uid": "11", "namespace": "shop", "name": "web-0", "node": "a", "addresses": ["10.0.1.2", "fd00::2"],
         "identity": spiffe("web"), "enrolled": true, "tunnel": "hbone"},
        {"uid": "22", "namespace": "shop", "name": "web-1", "node": null, "addresses": [],
         "identity": spiffe("web"), "enrolled": false, "tunnel": "none"},
    ]));
    let expected = "\
NAMESPACE   NAME    NODE     ADDRESSES           ENROLLED   TUNNEL   IDENTITY                                UID
shop        web-0   a        10.0.1.2, fd00::2   yes        hbone    spiffe://cluster.local/ns/shop/sa/web   11
shop        web-1   <none>   <none>              no         none     spiffe://cluster.local/ns/shop/sa/web   22
";
    assert_eq!(workloads::table(&workload_rows).render(Style { wide: true, ..PLAIN }), expected);

    let endpoint = |last: u8, ready: bool| {
        json!({"address": format!("10.0.1.{last}"), "ports": [{"service": 80, "target": 8080}], "workload": null,
               "ready": ready})
    };
    let service_rows = rows::<ServiceRow>(json!([
        {"namespace": "shop", "name": "none", "addresses": [], "ports": [80], "endpoints": []},
        {"namespace": "shop", "name": "web", "addresses": ["10.96.0.1"], "ports": [80, 443],
         "endpoints": [endpoint(1, true), endpoint(2, true), endpoint(3, true), endpoint(4, false)]},
        {"namespace": "shop", "name": "wide", "addresses": ["10.96.0.2"], "external_addresses": ["192.0.2.1"],
         "load_balancer_addresses": ["192.0.2.1"], "source_ranges": ["10.0.0.0/8"], "ports": [80], "endpoints": [],
         "affinity_seconds": 10800, "local_only": true, "untouched": ["udp/53", "node-port/30080"]},
        {"namespace": "shop", "name": "z", "addresses": ["10.96.0.3"], "ports": [80], "endpoints": [],
         "other_proxy": "somebody", "untouched": []},
    ]));
    let expected = "\
NAMESPACE   NAME   ADDRESSES              PORTS     READY   ENDPOINTS                                              RULES                        UNTOUCHED
shop        none   <none>                 80        0/0     <none>                                                 <none>                       <none>
shop        web    10.96.0.1              80, 443   3/4     10.0.1.1:8080, 10.0.1.2:8080, 10.0.1.3:8080 + 1 more   <none>                       <none>
shop        wide   10.96.0.2, 192.0.2.1   80        0/0     <none>                                                 affinity 3h, local, ranges   udp/53, node-port/30080
shop        z      10.96.0.3              80        0/0     <none>                                                 <none>                       all (proxy somebody)
";
    assert_eq!(services::table(&service_rows).render(PLAIN), expected);
}

#[test]
fn an_agents_status_names_what_is_wrong() {
    let status: Status = serde_json::from_value(json!({
        "version": "0.1.0", "node": "a", "trust_domain": "cluster.local",
        "controller": {"address": "10.0.0.1:15010", "connected": false, "since": "2026-01-01T00:00:00Z",
                       "last_error": "connection refused"},
        "world": {"complete": true, "workloads": 3, "services": 1, "cached_seconds": 5400},
        "pods": {"captured": 2, "pending": 0, "excluded": 1, "unknown": 0},
        "kernel": {"hooks": [{"name": "mesh_connect4", "attached": true}, {"name": "mesh_connect6", "attached": false}],
                   "refused": {"unknown_pod": 4, "not_ready": 9}},
        "uptime_seconds": 3725,
    }))
    .unwrap();
    let expected = "\
Node:          a
Version:       0.1.0
Trust domain:  cluster.local
Uptime:        1h2m
Controller:    10.0.0.1:15010, not connected since 2026-01-01T00:00:00Z (2m ago)
               last error: connection refused
World:         complete, from this node's disk, 1h30m old; 3 workloads, 1 service
Pods:          2 captured, 0 pending, 1 excluded, 0 unknown
Hooks:         1 of 2 attached
               missing: mesh_connect6
Refused:       not_ready 9, unknown_pod 4
";
    let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
    assert_eq!(status::agent(&status, now, PLAIN), expected);
}

#[test]
fn a_controllers_status_names_broken_files_and_agents_that_lag() {
    let status: ControllerStatus = serde_json::from_value(json!({
        "version": "0.1.0", "trust_domain": "cluster.local",
        "agents": [{"node": "a", "connected": true, "version": "0.1.0", "acked": "12", "behind": 0},
                   {"node": "b", "connected": false, "version": null, "acked": null, "behind": 2,
                    "refused": "a map is full"}],
        "workloads": 3, "services": 1,
        "files": [{"path": "pods.yaml", "error": "line 3: no name"}, {"path": "services.yaml", "error": null}],
    }))
    .unwrap();
    let expected = "\
Version:       0.1.0
Trust domain:  cluster.local
World:         3 workloads, 1 service
Files:         2 files, 1 broken: their last good state is in force
               pods.yaml: line 3: no name
Agents:        1 of 2 connected
Refused by:    b, its last update: a map is full

NODE   CONNECTED   VERSION   ACKED    BEHIND
a      yes         0.1.0     12       0
b      no          <none>    <none>   2
";
    assert_eq!(status::controller(&status, PLAIN), expected);
}

#[test]
fn a_preflight_says_what_to_do() {
    let report = Report::new(vec![
        Check::pass("cgroup2", "mounted at /sys/fs/cgroup"),
        Check::fail("bpffs", "not mounted", "mount -t bpf bpf /sys/fs/bpf"),
    ]);
    let expected = "\
CHECK     STATUS   MESSAGE
cgroup2   pass     mounted at /sys/fs/cgroup
bpffs     fail     not mounted

bpffs: mount -t bpf bpf /sys/fs/bpf
";
    assert_eq!(check::table(&report, PLAIN), expected);
}
