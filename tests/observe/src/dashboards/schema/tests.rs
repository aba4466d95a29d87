use super::*;
use serde_json::json;

/// What is done to it.
type Change = Box<dyn FnOnce(&mut Value)>;

/// A dashboard of ours, changed, and what is said of it then.
fn said(change: impl FnOnce(&mut Value)) -> String {
    let all = super::super::load().unwrap();
    let mut mesh = all.iter().find(|dashboard| dashboard.name == "mesh").unwrap().clone();
    change(&mut mesh.json);
    mesh.text = canonical(&mesh.json);
    complaints(&mesh, &all).join("\n")
}

#[test]
fn a_dashboard_as_it_is_gives_no_cause_for_complaint() {
    assert_eq!(said(|_| {}), "");
}

#[test]
fn what_grafana_would_drop_or_show_wrongly_is_said() {
    let panel = |json: &mut Value, key: &str, value: Value| json["panels"][1][key] = value;
    let cases: Vec<(&str, Change)> = vec![
        ("uid", Box::new(|json| json["uid"] = json!("other"))),
        ("knows no field", Box::new(|json| json["rows"] = json!([]))),
        ("older than", Box::new(|json| json["schemaVersion"] = json!(16))),
        ("lies over", Box::new(|json| json["panels"][2]["gridPos"] = json["panels"][1]["gridPos"].clone())),
        ("24 columns", Box::new(|json| json["panels"][1]["gridPos"]["w"] = json!(30))),
        ("id is no number", Box::new(|json| json["panels"][2]["id"] = json["panels"][1]["id"].clone())),
        ("no such panel", Box::new(move |json| panel(json, "type", json!("graph")))),
        ("description", Box::new(move |json| panel(json, "description", json!("")))),
        ("data source", Box::new(move |json| panel(json, "datasource", json!("Prometheus")))),
        ("asks nothing", Box::new(move |json| panel(json, "targets", json!([])))),
        ("unit", Box::new(|json| json["panels"][1]["fieldConfig"]["defaults"]["unit"] = json!("conn/s"))),
        (
            "no variable $nobody",
            Box::new(|json| json["panels"][1]["targets"][0]["expr"] = json!("weft_pods{a=\"$nobody\"}")),
        ),
        (
            "fixed time",
            Box::new(|json| json["panels"][1]["targets"][0]["expr"] = json!("rate(weft_x_total[5m])")),
        ),
        (
            "does not keep",
            Box::new(|json| {
                json["panels"][1]["targets"][0]["expr"] = json!("sum by (a) (weft_pods)");
                json["panels"][1]["targets"][0]["legendFormat"] = json!("{{b}}");
            }),
        ),
        (
            "never refreshed",
            Box::new(|json| {
                let name = json!({"name": "x", "type": "query", "refresh": 0});
                json["templating"]["list"].as_array_mut().unwrap().push(name);
            }),
        ),
    ];
    for (word, change) in cases {
        let said = said(change);
        assert!(said.contains(word), "{word}: {said:?}");
    }
}

#[test]
fn durations_have_a_unit() {
    assert!(is_duration("30s") && is_duration("5m"));
    assert!(!is_duration("30") && !is_duration("s") && !is_duration(""));
}
