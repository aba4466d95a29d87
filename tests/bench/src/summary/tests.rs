#![allow(clippy::float_cmp, clippy::unwrap_used, reason = "tests: the values are exact")]

use std::time::Duration;

use super::*;
use crate::cpu::MachineTime;
use crate::window::Measure;
use crate::works::Kind;

fn window(units: f64, p50_us: Option<f64>) -> Window {
    Window {
        measure: Measure { units, seconds: 1.0, bytes: 0, connections: 1, p50_us, p99_us: p50_us },
        relays_cpu: Duration::from_millis(500),
        machine: MachineTime { busy: 1.0, steal: 0.0, total: 2.0 },
        others: 0.1,
    }
}

#[test]
fn the_median_is_the_middle_one_or_between_the_two() {
    assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
    assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
}

#[test]
fn ratios_are_made_within_rounds() {
    let work = Work { kind: Kind::Http, width: 32 };
    // The machine got slower by half: both sides of the third round show it, the ratio does not.
    let rounds = [(100.0, 50.0), (100.0, 40.0), (50.0, 25.0)];
    let rounds = rounds.map(|(direct, weft)| Round {
        direct: window(direct, Some(10.0)),
        weft: window(weft, Some(20.0)),
        yardstick: None,
    });
    let figures = Figures::of(work, &rounds);
    assert_eq!(figures.ratio, Spread { min: 0.4, median: 0.5, max: 0.5 });
    assert_eq!(figures.cpu_per_unit.min, 10_000.0, "0.5 s for 50 requests, in us");
    assert_eq!(figures.p50_us, Sides { direct: Some(10.0), weft: Some(20.0) });
    assert!((figures.others_share - 0.05).abs() < 1e-9);
}

#[test]
fn a_lone_request_is_compared_by_its_time() {
    let work = Work { kind: Kind::Request, width: 1 };
    let round =
        Round { direct: window(1_000.0, Some(40.0)), weft: window(500.0, Some(60.0)), yardstick: None };
    let figures = Figures::of(work, &[round]);
    assert_eq!((figures.direct.median, figures.weft.median, figures.ratio.median), (40.0, 60.0, 1.5));
}

#[test]
fn works_without_times_have_none() {
    let work = Work { kind: Kind::Throughput, width: 8 };
    let round = Round { direct: window(2.0, None), weft: window(1.0, None), yardstick: None };
    let figures = Figures::of(work, &[round]);
    assert_eq!(figures.p99_us, Sides { direct: None, weft: None });
    assert_eq!((figures.direct.median, figures.cpu_per_unit.median), (16.0, 0.5));
}

#[test]
fn the_yardstick_is_compared_with_the_direct_window_of_its_own_round() {
    let work = Work { kind: Kind::Connect, width: 8 };
    let round = |direct, yardstick| Round {
        direct: window(direct, None),
        weft: window(direct, None),
        yardstick: Some(Window { relays_cpu: Duration::from_millis(250), ..window(yardstick, None) }),
    };
    let rounds = [round(100.0, 20.0), round(50.0, 10.0), round(100.0, 10.0)];
    let figures = Figures::of(work, &rounds);
    let yardstick = figures.yardstick.unwrap();
    assert_eq!(yardstick.ratio, Spread { min: 0.1, median: 0.2, max: 0.2 });
    assert_eq!(yardstick.cpu_per_unit, Spread { min: 12_500.0, median: 25_000.0, max: 25_000.0 });
    assert_eq!(figures.ratio.median, 1.0, "that of the mesh is its own");
    assert_eq!(figures.cpu_per_unit.min, 5_000.0);
    assert!((figures.others_share - 0.05).abs() < 1e-9, "all three windows count");
}

#[test]
fn a_round_without_the_yardstick_leaves_none() {
    let work = Work { kind: Kind::Connect, width: 8 };
    let with =
        Round { direct: window(2.0, None), weft: window(1.0, None), yardstick: Some(window(1.0, None)) };
    let rounds = [with, Round { yardstick: None, ..with }];
    assert_eq!(Figures::of(work, &rounds).yardstick, None);
}

#[test]
fn where_the_middle_surely_lies_is_between_two_of_the_values() {
    assert_eq!(sure((1..=15).map(f64::from)), (4.0, 12.0));
    assert_eq!(sure((1..=31).map(f64::from)), (11.0, 21.0));
    assert_eq!(sure([3.0, 1.0, 2.0]), (1.0, 3.0), "few tell nothing but where they lie");
    assert!(sure([]).0.is_nan());
}
