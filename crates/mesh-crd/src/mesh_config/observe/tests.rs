//! Metrics and access logs of a MeshConfig: what is in force, and how what cannot be is named.
#![allow(clippy::unwrap_used, reason = "a test")]

use mesh_model::{MeshSettings, NoShare};

use super::*;
use crate::MeshConfig;

fn read(yaml: &str) -> Result<MeshConfig, serde_saphyr::Error> {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{{yaml}}}\n"
    );
    serde_saphyr::from_str(&text)
}

fn settings(yaml: &str) -> Result<MeshSettings, MeshConfigError> {
    read(yaml).unwrap().settings()
}

/// The whole chain, as the condition `Accepted` tells it.
fn said(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", said(source)))
}

#[test]
fn metrics_and_access_log_reach_the_settings() -> Result<(), NoShare> {
    let all = settings(
        "metrics: {profile: full, maxSeries: 1000}, accessLog: {mode: All, format: json, sample: 0.01, \
         namespaces: [shop, bank], minDuration: 1s500ms}",
    );
    let wanted = MeshSettings {
        metrics: MetricsSettings { profile: Some(mesh_model::MetricsProfile::Full), max_series: Some(1_000) },
        access_log: AccessLogSettings {
            mode: Some(mesh_model::AccessLogMode::All),
            format: Some("json".into()),
            sample: Some(Share::new(0.01)?),
            namespaces: Some(vec!["shop".into(), "bank".into()]),
            min_duration_ms: Some(1_500),
        },
        ..MeshSettings::default()
    };
    assert_eq!(all.unwrap(), wanted);
    assert_eq!(settings("metrics: {}, accessLog: {}").unwrap(), MeshSettings::default());
    let whole = settings("accessLog: {sample: 1}").unwrap();
    assert_eq!(whole.access_log.sample, Some(Share::ALL), "a whole number is a number, too");
    Ok(())
}

#[test]
fn what_cannot_be_in_force_names_the_field_and_what_would_be_right() {
    for (yaml, words) in [
        ("metrics: {maxSeries: 999}", ["spec.metrics.maxSeries", "between 1000 and 1000000"]),
        ("metrics: {maxSeries: 1000001}", ["spec.metrics.maxSeries", "1000001"]),
        ("accessLog: {sample: 1.5}", ["spec.accessLog.sample", "between 0.0 and 1.0"]),
        ("accessLog: {sample: -0.5}", ["spec.accessLog.sample", "mode: Off"]),
        ("accessLog: {sample: .nan}", ["spec.accessLog.sample", "NaN"]),
        ("accessLog: {namespaces: []}", ["spec.accessLog.namespaces", "leave it out"]),
        ("accessLog: {namespaces: [Shop]}", ["spec.accessLog.namespaces", "\"Shop\""]),
        ("accessLog: {minDuration: soon}", ["spec.accessLog.minDuration", "\"soon\" is not a time"]),
    ] {
        let error = said(&settings(yaml).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{yaml}: {error}");
    }
}

#[test]
fn what_nobody_knows_is_no_mesh_config() {
    for yaml in [
        "metrics: {labels: [pod]}",
        "metrics: {profile: lean}",
        "metrics: {maxSeries: -1}",
        "accessLog: {mode: on}",
        "accessLog: {file: /dev/null}",
        "accessLog: {format: xml}",
    ] {
        assert!(read(yaml).is_err(), "{yaml}");
    }
}
