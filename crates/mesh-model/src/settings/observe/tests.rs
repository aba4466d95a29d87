#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

#[test]
fn a_share_is_from_nothing_to_all() {
    for (part, millionths) in
        [(0.0, 0), (1e-9, 1), (0.25, 250_000), (0.999_999_9, 1_000_000), (1.0, 1_000_000)]
    {
        assert_eq!(Share::new(part).unwrap().millionths(), millionths, "{part}");
    }
    for part in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(Share::new(part).is_err(), "{part}");
    }
    assert_eq!(Share::of_millionths(1_000_000), Some(Share::ALL));
    assert_eq!(Share::of_millionths(1_000_001), None);
}

#[test]
fn all_holds_everything_and_nothing_holds_nothing() {
    let none = Share::new(0.0).unwrap();
    for random in [0, 1, u64::MAX / 2, u64::MAX] {
        assert!(Share::ALL.holds(random));
        assert!(!none.holds(random));
    }
    let quarter = Share::new(0.25).unwrap();
    assert!(quarter.holds(u64::MAX / 4 - 1));
    assert!(!quarter.holds(u64::MAX / 4 + (1 << 32)));
}

#[test]
fn settings_read_what_an_older_version_wrote() {
    let settings: AccessLogSettings = serde_json::from_str("{}").unwrap();
    assert_eq!(settings, AccessLogSettings::default());
    let settings = AccessLogSettings { sample: Some(Share::new(0.25).unwrap()), ..settings };
    let text = serde_json::to_string(&settings).unwrap();
    assert!(text.contains(r#""sample":0.25"#), "{text}");
    assert_eq!(serde_json::from_str::<AccessLogSettings>(&text).unwrap(), settings);
    assert!(serde_json::from_str::<AccessLogSettings>(r#"{"sample":2.0}"#).is_err());
}

#[test]
fn a_profile_is_its_word() {
    for profile in [MetricsProfile::Service, MetricsProfile::Workload, MetricsProfile::Full] {
        assert_eq!(profile.as_str().parse(), Ok(profile));
    }
    assert!("lean".parse::<MetricsProfile>().is_err());
}
