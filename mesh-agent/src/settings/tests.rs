use super::*;

pub(crate) fn flags() -> InForce {
    InForce {
        allow_unknown_pods: false,
        bootstrap_namespaces: vec!["kube-system".into()],
        keep_pre_capture_sockets: false,
        keys_on_disk: false,
        kubelet_port: 10250,
        log_format: Format::Text,
        metrics: Metrics::default(),
        access_log: AccessLog::written_as(Format::Text),
        leaving: false,
    }
}

#[test]
fn what_the_operator_leaves_out_is_the_flag() {
    assert_eq!(flags().overlaid(None), flags());
    assert_eq!(flags().overlaid(Some(&MeshSettings::default())), flags());
}

#[test]
fn what_the_operator_sets_wins_and_goes_with_the_object() {
    let mesh = MeshSettings {
        bootstrap_namespaces: Some(Vec::new()),
        allow_unknown_pods: Some(true),
        keep_pre_capture_sockets: Some(true),
        keys_on_disk: Some(true),
        kubelet_port: Some(10255),
        log_format: Some("json".into()),
        metrics: MetricsSettings { profile: Some(MetricsProfile::Full), max_series: Some(1_000) },
        access_log: AccessLogSettings {
            mode: Some(AccessLogMode::All),
            format: Some("text".into()),
            sample: Share::of_millionths(1),
            namespaces: Some(vec!["shop".into()]),
            min_duration_ms: Some(1_500),
        },
        leaving: true,
        ..MeshSettings::default()
    };
    let now = flags().overlaid(Some(&mesh));
    let all = InForce {
        allow_unknown_pods: true,
        bootstrap_namespaces: Vec::new(),
        keep_pre_capture_sockets: true,
        keys_on_disk: true,
        kubelet_port: 10255,
        log_format: Format::Json,
        metrics: Metrics { profile: MetricsProfile::Full, max_series: 1_000 },
        access_log: AccessLog {
            mode: AccessLogMode::All,
            format: Format::Text,
            sample: Share::of_millionths(1).unwrap_or(Share::ALL),
            namespaces: Some(vec!["shop".into()]),
            min_duration: Duration::from_millis(1_500),
        },
        leaving: true,
    };
    assert_eq!(now, all);
    assert_eq!(flags().overlaid(None), flags());
}

#[test]
fn access_lines_are_written_as_other_lines_unless_somebody_says_otherwise() {
    let mesh = MeshSettings { log_format: Some("json".into()), ..MeshSettings::default() };
    let now = flags().overlaid(Some(&mesh));
    assert_eq!(now.access_log, AccessLog::written_as(Format::Json));
    let access_log = AccessLogSettings { format: Some("morse".into()), ..AccessLogSettings::default() };
    let now = flags().overlaid(Some(&MeshSettings { access_log, ..mesh }));
    assert_eq!(now.access_log.format, Format::Json);
}

#[test]
fn what_makes_no_sense_is_nothing_said() {
    let mesh =
        MeshSettings { kubelet_port: Some(0), log_format: Some("morse".into()), ..MeshSettings::default() };
    assert_eq!(flags().overlaid(Some(&mesh)), flags());
}
