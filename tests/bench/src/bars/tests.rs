use super::*;
use crate::summary::{Sides, Spread};
use crate::works::WORKS;

fn figures(ratio: f64, cpu: f64) -> Figures {
    let spread = |median: f64| Spread { min: 0.0, median, max: 9.0 };
    let sides = Sides { direct: None, weft: None };
    Figures {
        direct: spread(1.0),
        weft: spread(1.0),
        ratio: spread(ratio),
        cpu_per_unit: spread(cpu),
        yardstick: None,
        p50_us: sides,
        p99_us: sides,
        machine_per_unit: sides,
        others_share: 0.0,
        steal_share: 0.0,
    }
}

#[test]
fn what_goes_past_the_agents_has_bars_and_what_goes_through_them_has_none() {
    let of = |path| -> Vec<String> {
        let bars = WORKS.into_iter().filter_map(|work| Some((work, Bar::of(path, work)?)));
        bars.map(|(work, bar)| format!("{work} {}", bar.ratio)).collect()
    };
    let promised = [
        "throughput-1 >= 0.95",
        "throughput-8 >= 0.95",
        "rr-1 <= 1.10",
        "rr-32 >= 0.95",
        "connect-1 >= 0.85",
        "connect-8 >= 0.85",
        "http-32 >= 0.95",
    ];
    assert_eq!(of(Path::SameNode), promised);
    assert_eq!(of(Path::Outside), promised);
    assert!(of(Path::CrossNode).is_empty());
}

#[test]
fn the_median_decides_and_what_is_missed_is_said() {
    let work = Work { kind: Kind::Throughput, width: 8 };
    let missed = |ratio, cpu| {
        Bar::of(Path::SameNode, work).map(|bar| bar.missed(work, &figures(ratio, cpu))).unwrap_or_default()
    };
    assert!(missed(0.95, 0.01).is_empty());
    assert_eq!(missed(0.9, 0.0), ["ratio 0.900, not >= 0.95"]);
    assert_eq!(missed(0.9, 0.2), ["ratio 0.900, not >= 0.95", "agents' CPU 0.200 s/GB, not <= 0.01"]);
}

#[test]
fn a_lone_request_may_take_a_tenth_longer() {
    let work = Work { kind: Kind::Request, width: 1 };
    let held = |ratio| {
        Bar::of(Path::Outside, work).is_some_and(|bar| bar.missed(work, &figures(ratio, 99.0)).is_empty())
    };
    assert!(held(1.1) && held(0.5) && !held(1.11) && !held(f64::NAN));
}
