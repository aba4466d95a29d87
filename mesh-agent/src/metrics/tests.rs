#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;

use mesh_common::Durations;
use mesh_model::{ServiceKey, Uid, Workload};
use mesh_telemetry::api::{ConnectionPath, Direction, Security};
use mesh_telemetry::metrics::Exposition;

use super::*;
use crate::connections::End;

fn end(namespace: &str, owner: &str) -> End {
    let workload = Workload {
        uid: Uid::new(&format!("{namespace}-{owner}")),
        namespace: namespace.into(),
        name: format!("{owner}-0").into(),
        owner: owner.into(),
        node: "a".into(),
        identity: format!("spiffe://weft.test/ns/{namespace}/sa/{owner}").parse().unwrap(),
        addresses: Vec::new(),
        enrolled: true,
        left_alone: None,
        tunnel: Default::default(),
        phase: Default::default(),
        host_network: false,
        bindings: None,
    };
    End {
        identity: Some(workload.identity.clone()),
        workload: Some(Arc::new(workload)),
        address: "10.0.0.1:80".parse().unwrap(),
    }
}

fn about(source: &str, destination: &str) -> About {
    About {
        direction: Direction::Outbound,
        path: ConnectionPath::Tunnel,
        security: Security::Mtls,
        source: end("front", source),
        destination: end("shop", destination),
        service: Some(ServiceKey { namespace: "shop".into(), name: "web".into() }),
    }
}

fn present(here: &[(&str, &str)], elsewhere: &[(&str, &str)]) -> Present {
    let set = |names: &[(&str, &str)]| names.iter().map(|(a, b)| (Arc::from(*a), Arc::from(*b))).collect();
    Present { here: set(here), anywhere: set(&[here, elsewhere].concat()) }
}

/// Lines of pairs in what Prometheus gets.
fn lines(registry: &Registry) -> Vec<String> {
    let text = registry.render(Exposition::OpenMetrics).unwrap();
    let of_pairs = |line: &&str| line.starts_with("weft_") && line.contains("direction=");
    text.lines().filter(of_pairs).map(str::to_owned).collect()
}

fn metrics() -> (Registry, Metrics) {
    let mut registry = Registry::new();
    let metrics = Metrics::register(&mut registry);
    (registry, metrics)
}

#[test]
fn labels_are_as_fine_as_the_profile_says() {
    let (registry, metrics) = metrics();
    let names = |profile| {
        metrics.set(profile, 20_000);
        let before: BTreeSet<String> = lines(&registry).into_iter().collect();
        metrics.pair(&about("cart", "web")).opened.inc();
        let opened = lines(&registry).into_iter().filter(|line| !before.contains(line));
        let line = opened.into_iter().find(|line| line.starts_with("weft_connections_opened_total")).unwrap();
        line.split('{').nth(1).unwrap().split('}').next().unwrap().to_owned()
    };
    assert_eq!(
        names(MetricsProfile::Service),
        r#"verdict="allowed",direction="outbound",security="mtls",source_namespace="front",destination_namespace="shop",destination_service="web""#
    );
    assert_eq!(
        names(MetricsProfile::Workload),
        r#"verdict="allowed",direction="outbound",security="mtls",source_namespace="front",source_workload="cart",destination_namespace="shop",destination_workload="web",destination_service="web""#
    );
    assert!(names(MetricsProfile::Full).contains(r#"source_identity="spiffe://weft.test/ns/front/sa/cart""#));
}

#[test]
fn no_series_is_there_twice() {
    let (registry, metrics) = metrics();
    let mut unlike = Vec::new();
    for namespace in ["shop", "other"] {
        let mut about = about("cart", "web");
        about.service = Some(ServiceKey { namespace: namespace.into(), name: "web".into() });
        unlike.push(about);
    }
    // Nobody's, and somebody's who is called like that.
    for destination in [End { workload: None, ..end("shop", "web") }, end("unknown", "unknown")] {
        unlike.push(About { destination, ..about("cart", "web") });
    }
    for profile in [MetricsProfile::Service, MetricsProfile::Workload, MetricsProfile::Full] {
        metrics.set(profile, 20_000);
        for about in &unlike {
            metrics.pair(about).opened.inc();
        }
    }
    let lines = lines(&registry);
    let series: BTreeSet<&str> = lines.iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
    assert_eq!(series.len(), lines.len(), "{lines:#?}");
}

#[test]
fn the_same_pair_is_found_again_and_another_one_after_a_change_of_profile() {
    let (_registry, metrics) = metrics();
    let is_same = |a: &About, b: &About| Arc::ptr_eq(&metrics.pair(a), &metrics.pair(b));
    let (web, store) = (about("cart", "web"), about("cart", "store"));
    let inbound = About { direction: Direction::Inbound, ..about("cart", "web") };
    let plaintext = About { security: Security::Plaintext, ..about("cart", "web") };
    let anonymous = About { source: End { identity: None, ..end("front", "cart") }, ..about("cart", "web") };
    let undialled = About { service: None, ..about("cart", "web") };
    let mut before = None;
    for profile in [MetricsProfile::Service, MetricsProfile::Workload, MetricsProfile::Full] {
        metrics.set(profile, 20_000);
        assert!(is_same(&web, &about("cart", "web")), "{profile:?}: of other allocations");
        for (unlike, what) in [(&inbound, "direction"), (&plaintext, "security"), (&undialled, "service")] {
            assert!(!is_same(&web, unlike), "{profile:?}: {what}");
        }
        assert_eq!(is_same(&web, &store), profile == MetricsProfile::Service);
        assert_eq!(is_same(&web, &anonymous), profile != MetricsProfile::Full);
        let now = metrics.pair(&web);
        assert!(before.is_none_or(|before| !Arc::ptr_eq(&before, &now)), "{profile:?}");
        before = Some(now);
    }
    metrics.set(MetricsProfile::Full, 0);
    assert!(is_same(&web, &about("cart", "web")), "what is there needs no room");
    assert!(is_same(&about("cart", "a"), &about("cart", "b")), "the rest");
}

#[test]
fn the_table_finds_each_of_many_after_it_has_grown() {
    let (_registry, metrics) = metrics();
    metrics.set(MetricsProfile::Workload, 100_000);
    let abouts: Vec<_> = (0..3_000).map(|number| about("cart", &format!("web-{number}"))).collect();
    let pairs: Vec<_> = abouts.iter().map(|about| metrics.pair(about)).collect();
    for (about, pair) in abouts.iter().zip(&pairs) {
        assert!(Arc::ptr_eq(&metrics.pair(about), pair));
    }
    assert_eq!(metrics.series().0, 3_000 * pair::BASE);
}

#[test]
fn a_histogram_that_had_no_room_comes_into_being_once_there_is_some() {
    let (registry, metrics) = metrics();
    metrics.set(MetricsProfile::Workload, 10);
    let pair = metrics.pair(&about("cart", "web"));
    let counts = |metrics: &Metrics| {
        pair.connected_after(Duration::from_millis(2));
        let lines = lines(&registry);
        let of = |namespace: &str| {
            let labels = format!("source_namespace=\"{namespace}\"");
            let is_it = |line: &&String| {
                line.starts_with("weft_connect_duration_seconds_count") && line.contains(&labels)
            };
            lines.iter().find(is_it).map(|line| line.rsplit(' ').next().unwrap().to_owned())
        };
        (of("front"), of("overflow"), metrics.series().0)
    };
    assert_eq!(counts(&metrics), (None, Some("1".into()), pair::BASE));
    assert_eq!(counts(&metrics), (None, Some("2".into()), pair::BASE));
    metrics.set(MetricsProfile::Workload, 100);
    let with_it = pair::BASE + durations::SERIES;
    assert_eq!(counts(&metrics), (Some("1".into()), Some("2".into()), with_it));
    assert_eq!(counts(&metrics), (Some("2".into()), Some("2".into()), with_it), "its room is taken once");
}

#[test]
fn pairs_of_namespaces_are_forgotten_with_their_last_workload() {
    let (registry, metrics) = metrics();
    metrics.set(MetricsProfile::Service, 20_000);
    metrics.pair(&about("cart", "web")).opened.inc();
    let now = Instant::now();
    let later = |seconds| now + Duration::from_secs(seconds);
    let other = present(&[("front", "other")], &[("shop", "other")]);
    for seconds in [0, 301] {
        metrics.pairs.sweep(&other, later(seconds));
    }
    assert!(!lines(&registry).is_empty(), "somebody is in both");
    let gone = present(&[("front", "other")], &[("else", "web")]);
    for seconds in [400, 701] {
        metrics.pairs.sweep(&gone, later(seconds));
    }
    assert!(lines(&registry).is_empty());
}

#[test]
fn what_was_lost_before_the_agent_is_not_counted_again() {
    let insides = Insides::default();
    assert_eq!([10, 10, 12, 3].map(|ever| insides.lost_since(ever)), [0, 0, 2, 0]);
}

#[test]
fn ten_thousand_workloads_stay_under_the_cap() {
    let (registry, metrics) = metrics();
    metrics.set(MetricsProfile::Workload, 2000);
    for number in 0..10_000 {
        let about = about("cart", &format!("web-{number}"));
        let pair = metrics.pair(&about);
        pair.opened.inc();
        pair.connected_after(Duration::from_millis(2));
        pair.round_trip(Duration::from_micros(80));
        pair.closed(None);
        metrics.failed(PairKey::of(&about), Reason::PolicyDenied);
    }
    let lines = lines(&registry);
    let (rest, named): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.contains(r#"source_namespace="overflow""#));
    assert!(named.len() <= 2000 && named.len() > 1900, "{} series", named.len());
    assert_eq!(metrics.series().0, named.len(), "what is counted is what is there");
    assert!(rest.len() < 64, "{} series of the rest", rest.len());
    // Nothing is lost: it is only told together.
    for (name, labels) in [
        ("weft_connections_opened_total", ""),
        ("weft_connections_closed_total", r#"reason="clean""#),
        ("weft_connections_failed_total", r#"reason="policy_denied",verdict="denied""#),
        ("weft_connect_duration_seconds_count", ""),
        ("weft_tcp_rtt_seconds_count", ""),
    ] {
        let of = lines.iter().filter(|line| line.starts_with(name) && line.contains(labels));
        let sum: u64 = of.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(sum, 10_000, "{name}");
    }
}

#[test]
fn pairs_of_pods_that_are_gone_are_shown_for_a_while_and_forgotten() {
    let (registry, metrics) = metrics();
    let (now, later) = (Instant::now(), |seconds| Duration::from_secs(seconds));
    for workload in ["web", "store"] {
        metrics.pair(&about("cart", workload)).opened.inc();
    }
    let running = metrics.pair(&about("cart", "long"));
    running.open.inc();
    let held = metrics.pair(&about("cart", "held"));
    let gone = present(&[("front", "cart")], &[("shop", "web")]);
    let shown = |workload: &str| {
        lines(&registry).iter().any(|line| line.contains(&format!("destination_workload=\"{workload}\"")))
    };
    metrics.pairs.sweep(&gone, now);
    metrics.pairs.sweep(&gone, now + later(299));
    assert!(shown("store"), "its last word may not have been read");
    metrics.pairs.sweep(&gone, now + later(301));
    assert!(!shown("store"));
    assert!(shown("web"), "both of its ends are there");
    assert!(shown("long"), "a connection of it is open");
    assert!(shown("held"), "somebody counts in it");
    drop((running, held));
    let before = metrics.series().0;
    let nobody = present(&[], &[]);
    metrics.pairs.sweep(&nobody, now + later(400));
    metrics.pairs.sweep(&nobody, now + later(800));
    assert!(!shown("web"));
    assert!(metrics.series().0 < before, "its room is free");
}

#[test]
fn one_that_is_back_in_time_is_not_forgotten() {
    let (registry, metrics) = metrics();
    let now = Instant::now();
    metrics.pair(&about("cart", "web")).opened.inc();
    let (gone, there) = (present(&[], &[]), present(&[("front", "cart")], &[("shop", "web")]));
    metrics.pairs.sweep(&gone, now);
    metrics.pairs.sweep(&there, now + Duration::from_secs(200));
    metrics.pairs.sweep(&gone, now + Duration::from_secs(400));
    metrics.pairs.sweep(&gone, now + Duration::from_secs(600));
    assert!(!lines(&registry).is_empty());
}

#[test]
fn what_the_kernel_measures_is_one_distribution_with_what_the_agent_does() {
    let (registry, metrics) = metrics();
    let pair = metrics.pair(&about("cart", "web"));
    pair.connected_after(Duration::from_micros(49));
    pair.connected_after(Duration::from_secs(7));
    let mut now = Durations { sum: 1500, ..Durations::NONE };
    now.counts[3] = 2;
    pair.measured(&now, &Durations::NONE);
    pair.measured(&Durations::NONE, &Durations::NONE);
    let lines = lines(&registry);
    let value = |name: &str, labels: &str| {
        let line = lines.iter().find(|line| line.starts_with(name) && line.contains(labels));
        let line = line.unwrap_or_else(|| panic!("{name}{{{labels}}} is not in {lines:#?}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let bucket = "weft_connect_duration_seconds_bucket";
    assert_eq!(value(bucket, r#"le="0.00005""#), "1");
    assert_eq!(value(bucket, r#"le="0.001""#), "3");
    assert_eq!(value(bucket, r#"le="1.0""#), "3");
    assert_eq!(value(bucket, r#"le="+Inf""#), "4");
    assert_eq!(value("weft_connect_duration_seconds_count", ""), "4");
    assert_eq!(value("weft_connect_duration_seconds_sum", ""), "7.001549");
    assert!(!lines.iter().any(|line| line.starts_with("weft_tcp_rtt_seconds_")), "nothing was measured");
}

#[test]
fn the_documentation_says_what_the_registry_says() {
    let mut registry = Registry::new();
    let _all = All::register(&mut registry);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    assert!(
        registry.is_documented(&file, "agent").unwrap(),
        "docs/metrics.md is another one: WEFT_WRITE_DOCS=1 cargo test -p mesh-agent the_documentation"
    );
}

#[test]
fn what_a_bench_invents_is_counted_like_connections_and_under_the_same_cap() {
    let (registry, metrics) = metrics();
    metrics.set(MetricsProfile::Workload, 1_000);
    metrics.invent(300);
    let (used, max) = metrics.series();
    assert!(used <= max && used > max - 100, "{used} of {max}");
    let opened =
        lines(&registry).into_iter().filter(|line| line.starts_with("weft_connections_opened_total{"));
    let count =
        opened.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u32>().ok()).unwrap());
    assert_eq!(count.sum::<u32>(), 300);
}
