//! What every definition has to have, and that the chart has these and no other.
#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

/// Every schema below `at` that stands for a field, with its path.
fn fields(at: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    for (name, schema) in at["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields(schema, &path, found);
        fields(&schema["items"], &format!("{path}[]"), found);
        found.push((path, schema.clone()));
    }
}

fn schemas() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for crd in all().unwrap() {
        let crd = serde_json::to_value(crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        fields(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], kind, &mut found);
    }
    found
}

#[test]
fn every_field_is_described() {
    let silent: Vec<_> = schemas()
        .into_iter()
        .filter(|(_, schema)| schema["description"].as_str().is_none_or(str::is_empty))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "no description: {silent:?}");
}

#[test]
fn every_list_of_a_spec_is_bounded() {
    let unbounded: Vec<_> = schemas()
        .into_iter()
        .filter(|(path, schema)| {
            path.contains(".spec") && schema["type"] == "array" && schema["maxItems"].is_null()
        })
        .map(|(path, _)| path)
        .collect();
    assert!(unbounded.is_empty(), "no maxItems: {unbounded:?}");
}

#[test]
fn no_field_is_null_and_no_format_is_rusts() {
    let text = serde_json::to_string(&all().unwrap()).unwrap();
    assert!(!text.contains("nullable") && !text.contains("uint"), "{text}");
}

#[test]
fn every_definition_has_a_status_columns_a_category_and_a_short_name() {
    for crd in all().unwrap() {
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|all| all.status.is_some()));
        assert!(version.additional_printer_columns.as_ref().is_some_and(|columns| columns.len() > 2));
        assert_eq!(crd.spec.names.categories.as_deref(), Some(&["weft".to_owned()][..]));
        assert_eq!(crd.spec.names.short_names.as_ref().map(Vec::len), Some(1));
    }
}

#[test]
fn a_table_that_names_no_field_is_an_error() {
    let crd = NodeState::crd();
    let error = complete(&crd, vec![("spec.nothing", json!({}))]).unwrap_err();
    assert_eq!(error.to_string(), "NodeState: the schema has no field \"spec.nothing\"");
}

#[test]
fn the_chart_has_these_definitions_and_no_other() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/charts/mesh-crds/templates");
    let mut there: Vec<(String, String)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    there.sort();
    let mut wanted = templates().unwrap();
    wanted.sort();
    assert!(there == wanted, "run `cargo xtask gen`: {directory} is not what the types say");
}
