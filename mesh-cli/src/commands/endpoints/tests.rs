#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::render::Style;

fn rows(values: Value) -> Vec<Row<ChoiceRow>> {
    let values: Vec<Value> = serde_json::from_value(values).unwrap();
    values.into_iter().map(|raw| Row { row: serde_json::from_value(raw.clone()).unwrap(), raw }).collect()
}

fn choice(address: Value, ready: bool, why: Value) -> Value {
    json!({"namespace": "shop", "service": "web", "port": 80, "address": address,
           "pod": {"namespace": "shop", "name": "web-0", "uid": "11"}, "node": "a", "zone": "z1", "for_zones": ["z1"],
           "for_nodes": [], "ready": ready, "phase": "running", "tunnel": "hbone", "chosen": why.is_null(), "why": why})
}

#[test]
fn endpoints_are_a_table_with_why_one_is_left_out() {
    let rows = rows(json!([
        choice(json!("10.0.1.2:8080"), true, Value::Null),
        choice(json!("10.0.1.3:8080"), false, json!("not ready, and others are")),
        choice(Value::Null, false, json!("no_endpoint")),
    ]));
    let expected = "\
SERVICE    PORT   ENDPOINT        POD          NODE   ZONE   HEALTH        TUNNEL   CHOSEN   WHY-NOT
shop/web   80     10.0.1.2:8080   shop/web-0   a      z1     ready         hbone    yes      <none>
shop/web   80     10.0.1.3:8080   shop/web-0   a      z1     terminating   hbone    no       not ready, and others are
shop/web   80     <none>          shop/web-0   a      z1     none          hbone    no       no_endpoint
";
    assert_eq!(table(&rows).render(Style::default()), expected);
    assert_eq!(name_of(&rows[0].row), "pod/shop/web-0");
}

#[test]
fn a_service_is_named_with_its_namespace() {
    let args = |namespace: Option<&str>| EndpointArgs {
        service: None,
        chosen: false,
        scope: crate::args::Scope { namespace: namespace.map(str::to_owned), ..Default::default() },
    };
    let both = ("shop".to_owned(), "web".to_owned());
    assert_eq!(named("shop/web", &args(None)).unwrap(), both);
    assert_eq!(named("svc/shop/web", &args(None)).unwrap(), both);
    assert_eq!(named("web", &args(Some("shop"))).unwrap(), both);
    for (bad, namespace) in
        [("web", None), ("shop/", None), ("a/b/c", None), ("we b", Some("shop")), ("a&b", Some("x"))]
    {
        assert_eq!(named(bad, &args(namespace)).unwrap_err().exit_code(), 2, "{bad}");
    }
}
