#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Suite};
use crate::cpu::MachineTime;
use crate::policy::switch::MapCost;
use crate::window::Measure;

const CONNECT: Work = Work { kind: Kind::Connect, width: 1 };

fn window(rate: f64) -> Window {
    let us = Some(1e6 / rate);
    Window {
        measure: Measure { units: rate, seconds: 1.0, bytes: 0, connections: 1, p50_us: us, p99_us: us },
        relays_cpu: Duration::ZERO,
        machine: MachineTime { busy: 1.0, steal: 0.0, total: 2.0 },
        others: 0.0,
    }
}

fn row(work: Work, empty: &[f64], full: &[f64]) -> Row {
    let windows = |rates: &[f64]| -> Vec<Window> { rates.iter().copied().map(window).collect() };
    Row::of(work, &windows(empty), &windows(full))
}

fn cost(entries: usize) -> Cost {
    let map = |entries| MapCost { bytes: 1 << 20, entries };
    let maps = [("mesh_dests", map(Some(entries))), ("mesh_listeners", map(None))];
    let maps: BTreeMap<String, MapCost> =
        maps.into_iter().map(|(name, map)| (name.to_owned(), map)).collect();
    Cost { rss_bytes: 20 << 20, map_bytes: 2 << 20, maps }
}

fn report(full: f64) -> Report {
    let Suite::Policy(options) = Cli::try_parse_from(["weft-bench", "policy", "--short"]).unwrap().suite
    else {
        panic!("another suite")
    };
    let taken = Taken {
        world: Duration::from_secs(3),
        last_in_table: Duration::from_millis(40),
        last_enforced: Duration::from_millis(50),
    };
    let measured = Measured {
        empty: [100.0, 98.0].map(|rate| vec![window(rate)]).into(),
        full: vec![vec![window(full)]],
        taken: vec![taken],
        before: cost(5),
        filled: cost(10_005),
        after: cost(5),
    };
    Report { options, kernel: "6.1".into(), idle_share: 0.0, figures: Ok(Figures::of(&[CONNECT], &measured)) }
}

#[test]
fn a_full_world_is_compared_with_the_empty_ones_around_it() {
    // The machine got slower by half: the ratios do not show it, the noise does.
    let row = row(CONNECT, &[200.0, 200.0, 100.0], &[190.0, 150.0]);
    assert!((row.ratio.min - 0.95).abs() < 1e-9 && (row.ratio.max - 1.0).abs() < 1e-9, "{:?}", row.ratio);
    assert!((row.noise.min - 0.5).abs() < 1e-9 && (row.noise.max - 1.0).abs() < 1e-9, "{:?}", row.noise);
}

#[test]
fn a_loss_that_is_more_than_noise_misses_the_bar() {
    let held = |empty: &[f64], full: &[f64]| row(CONNECT, empty, full).bar().unwrap().held;
    assert!(held(&[100.0, 98.0], &[98.5]));
    assert!(held(&[100.0, 100.0], &[103.0]), "it may be faster");
    assert!(!held(&[100.0, 99.5], &[97.0]), "3 % of loss, 0.5 % of noise");
    assert!(!held(&[100.0, 80.0], &[80.0]), "no noise excuses a tenth");
}

#[test]
fn requests_are_measured_and_held_to_nothing() {
    let row = row(Work { kind: Kind::Request, width: 1 }, &[100.0, 100.0], &[50.0]);
    assert_eq!(row.bar(), None);
    assert!((row.ratio.median - 2.0).abs() < 1e-9, "twice the time");
}

#[test]
fn a_report_tells_the_bar_the_times_and_the_tables() {
    let good = report(98.9);
    assert_eq!(good.outcome(), Outcome::Good);
    let json = good.json();
    assert_eq!(json["rows"][0]["bar"]["held"], true);
    assert_eq!(json["in_force_ms"]["last_policy_in_table"]["median"], 40.0);
    assert_eq!(json["cost"]["full"]["maps"]["mesh_dests"]["entries"], 10_005);
    let table = good.table();
    assert!(table.contains("mesh_dests, entries") && table.contains("10005"), "{table}");
    assert!(!table.contains("mesh_listeners"), "what the world does not change is left out: {table}");
    assert!(table.contains(": held") && !table.contains("warning"), "{table}");
    let bad = report(90.0);
    assert_eq!(bad.outcome(), Outcome::BarMissed);
    assert!(bad.table().contains("MISSED"));
}

#[test]
fn a_run_that_failed_has_no_number() {
    let mut report = report(98.9);
    report.figures = Err("the last policy: still not so".into());
    assert_eq!(report.outcome(), Outcome::Incomplete);
    assert_eq!(report.json()["error"], "the last policy: still not so");
    assert!(report.json().get("rows").is_none());
    assert!(report.table().contains("no figures: the last policy"));
}
