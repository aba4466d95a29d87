//! Settings of metrics and of the access log on the wire.

use mesh_model::{AccessLogMode, AccessLogSettings, MeshSettings, MetricsProfile, MetricsSettings, Share};
use prost::Message as _;

use super::{Name, Resource};
use crate::proto;

fn all() -> MeshSettings {
    MeshSettings {
        metrics: MetricsSettings { profile: Some(MetricsProfile::Full), max_series: Some(5000) },
        access_log: AccessLogSettings {
            mode: Some(AccessLogMode::All),
            format: Some("json".into()),
            sample: Share::of_millionths(250_000),
            namespaces: Some(vec!["shop".into(), "bank".into()]),
            min_duration_ms: Some(1500),
        },
        ..MeshSettings::default()
    }
}

#[test]
fn settings_of_metrics_and_log_come_back_as_they_went() {
    let mut each = vec![all()];
    for mode in [AccessLogMode::Off, AccessLogMode::Refused, AccessLogMode::All] {
        let access_log = AccessLogSettings { mode: Some(mode), ..AccessLogSettings::default() };
        each.push(MeshSettings { access_log, ..MeshSettings::default() });
    }
    for profile in [MetricsProfile::Service, MetricsProfile::Workload, MetricsProfile::Full] {
        let metrics = MetricsSettings { profile: Some(profile), max_series: None };
        each.push(MeshSettings { metrics, ..MeshSettings::default() });
    }
    for settings in each {
        let resource = Resource::Mesh(settings);
        assert_eq!(Resource::decode(&Name::Mesh, &resource.encode().body).unwrap(), resource);
    }
}

#[test]
fn settings_that_say_nothing_of_them_look_as_before() {
    let body = Resource::Mesh(MeshSettings::default()).encode().body;
    assert!(body.is_empty(), "{body:?}");
}

#[test]
fn a_word_or_number_that_makes_no_sense_is_refused_by_field() {
    type Edit = fn(&mut proto::Metrics, &mut proto::AccessLog);
    let cases: [(&str, Edit); 5] = [
        ("metrics.profile", |metrics, _| metrics.profile = Some(9)),
        ("metrics.max_series", |metrics, _| metrics.max_series = Some(0)),
        ("access_log.mode", |_, log| log.mode = Some(0)),
        ("access_log.format", |_, log| log.format = Some("morse".into())),
        ("access_log.sample_millionths", |_, log| log.sample_millionths = Some(1_000_001)),
    ];
    for (field, edit) in cases {
        let mut message = proto::Mesh::decode(Resource::Mesh(all()).encode().body).unwrap();
        edit(message.metrics.as_mut().unwrap(), message.access_log.as_mut().unwrap());
        let error = Resource::decode(&Name::Mesh, &message.encode_to_vec().into()).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}
