#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::render::Style;

fn row<T: serde::de::DeserializeOwned>(raw: Value) -> Row<T> {
    Row { row: serde_json::from_value(raw.clone()).unwrap(), raw }
}

#[test]
fn maps_say_how_full_they_are_and_what_is_wrong() {
    let map = |name: &str, entries: Value, error: Value| {
        json!({"name": name, "purpose": "what it is for", "kind": "hash", "id": 7, "key_bytes": 8, "value_bytes": 40,
               "entries": entries, "max_entries": 4096, "path": "/p", "bpftool": "bpftool map dump pinned /p", "error": error})
    };
    let rows = [
        row(map("mesh_pods", json!(12), Value::Null)),
        row(map("mesh_addrs", json!(4000), Value::Null)),
        row(map("mesh_direct", Value::Null, json!("no such file"))),
    ];
    let expected = "\
NAME          TYPE   ENTRIES   MAX    FILL     PURPOSE
mesh_pods     hash   12        4096   0%       what it is for
mesh_addrs    hash   4000      4096   97%      what it is for
mesh_direct   hash   <none>    4096   <none>   no such file
";
    assert_eq!(maps(&rows).render(Style::default()), expected);
    let wide = maps(&rows).render(Style { wide: true, ..Style::default() });
    assert!(wide.contains("bpftool map dump pinned /p"), "{wide}");
}

#[test]
fn programs_say_where_they_run() {
    let raw = json!({"name": "mesh_guard", "purpose": "lets out of a pod's device only what is the pod's",
        "attached_to": "the host's side of each pod's device", "links": 3, "ids": [41, 42], "tag": "00ff", "bytes": 1200,
        "loaded": "2026-01-01T00:00:00Z", "path": "/p", "bpftool": "bpftool prog show id 42"});
    let text = programs(&[row(raw)], "2026-01-01T01:00:00Z".parse().unwrap())
        .render(Style { wide: true, ..Style::default() });
    assert!(
        text.contains("1h ago") && text.contains("41, 42") && text.contains("bpftool prog show id 42"),
        "{text}"
    );
}

#[test]
fn entries_are_words() {
    let entries =
        [BpfEntry { key: json!("10.96.0.1:80"), value: json!({"refused": null, "set": 3, "count": 2}) }];
    let text = entry_table(&entries).render(Style::default());
    assert!(
        text.contains("10.96.0.1:80   ")
            && (text.contains("set=3 count=2") || text.contains("count=2 set=3")),
        "{text}"
    );
}
