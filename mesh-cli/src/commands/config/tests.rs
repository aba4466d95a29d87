#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::diff::How;
use super::*;

fn dump() -> Value {
    json!({
        "as_of": "2026-01-01T00:00:00Z", "version": "0.1.0", "node": "a", "applied": "12", "complete": true,
        "cached_seconds": null,
        "settings": [
            {"name": "node", "value": "a", "from": "flag --node", "otherwise": null},
            {"name": "kubelet-port", "value": "10251", "from": "MeshConfig", "otherwise": "10250"},
        ],
        "mesh": null,
        "node_info": {"name": "a", "zone": "z1", "addresses": []},
        "workloads": [
            {"uid": "11", "namespace": "shop", "name": "web-0", "tunnel": "hbone", "addresses": ["10.0.0.1"]},
            {"uid": "22", "namespace": "shop", "name": "db-0", "tunnel": "none", "addresses": []},
        ],
        "services": [{"namespace": "shop", "name": "web", "endpoints": [{"workload": "11", "ready": true}]}],
        "policies": [{"key": {"namespace": "shop", "name": "web"}, "action": "ALLOW"}],
    })
}

#[test]
fn what_is_the_same_does_not_differ_whenever_and_wherever_it_was_asked_for() {
    let mut other = dump();
    other["as_of"] = json!("2027-01-01T00:00:00Z");
    other["applied"] = json!("13");
    other["node"] = json!("b");
    other["settings"][0]["value"] = json!("b");
    other["node_info"]["name"] = json!("b");
    assert_eq!(Items::of_dump(&dump()).changes(&Items::of_dump(&other)), []);
}

#[test]
fn a_difference_is_named_by_its_object_and_field() {
    let mut other = dump();
    other["workloads"][0]["tunnel"] = json!("withdrawn");
    other["workloads"][1] = json!({"uid": "33", "namespace": "shop", "name": "db-0"});
    other["settings"][1]["value"] = json!("10250");
    other["services"][0]["endpoints"][0]["ready"] = json!(false);
    let changes = Items::of_dump(&dump()).changes(&Items::of_dump(&other));
    let expected = "\
~ service shop/web
    endpoints[0].ready: true -> false
~ setting kubelet-port
    value: 10251 -> 10250
- workload shop/db-0
+ workload shop/db-0
~ workload shop/web-0
    tunnel: hbone -> withdrawn
";
    assert_eq!(text(&changes, Style::default()), expected);
}

#[test]
fn an_agent_is_compared_with_its_controller() {
    let world = json!({
        "as_of": "2026-01-01T00:00:00Z", "mesh": null,
        "workloads": [
            {"uid": "11", "namespace": "shop", "name": "web-0", "tunnel": "hbone", "addresses": ["10.0.0.1"],
             "labels": {"app": "web"}},
            {"uid": "22", "namespace": "shop", "name": "db-0", "tunnel": "none", "addresses": [], "labels": {}},
        ],
        "services": [{"namespace": "shop", "name": "web", "pods": ["11"]}],
        "policies": [],
        "observed": [], "unobserved": 0,
    });
    let changes = Items::of_controller(&world).changes(&Items::as_a_controller_knows(&dump()));
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].kind, changes[0].change), ("policy", How::OnlyRight));
}

#[test]
fn what_is_no_dump_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.json");
    for (content, says) in [("{", "is no JSON"), ("[]", "is no dump"), (r#"{"workloads": []}"#, "is no dump")]
    {
        std::fs::write(&file, content).unwrap();
        let error = read(&file).unwrap_err();
        assert!(error.to_string().contains(says) && error.exit_code() == 1, "{error}");
    }
    assert!(matches!(read(&directory.path().join("none")).unwrap_err(), Failure::File { .. }));
}

#[test]
fn of_all_nodes_there_is_a_list_even_where_one_answers() {
    assert_eq!(shape(vec![dump()], true), json!([dump()]));
    assert_eq!(shape(vec![dump()], false), dump());
}
