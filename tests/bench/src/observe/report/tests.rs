#![allow(clippy::unwrap_used, reason = "tests")]

use clap::Parser as _;

use super::*;
use crate::cli::{Cli, Suite};
use crate::cpu::MachineTime;

/// A thousand connections with this many microseconds of the agents' CPU each.
fn slice(cpu_us: f64) -> Slice {
    let cpu = Duration::from_secs_f64(cpu_us / 1e3);
    Slice { cpu, connections: 1_000, time: Duration::from_secs(1) }
}

/// Rounds as first and last slice that are off, slices with metrics, slices with lines.
fn figures(rounds: &[([f64; 2], f64, f64)]) -> Figures {
    let round = |(off, metrics, line): &([f64; 2], f64, f64)| {
        [off[0], *metrics, *line, *line, *metrics, off[1]].map(slice).to_vec()
    };
    let taken = |rounds, lines| Taken { rounds, counted: [0.0; 2], lines };
    let scrape = Scrape {
        pair_series: 19_990,
        max_series: 20_000,
        series: 20_400,
        bytes: 1 << 22,
        millis: Spread::of([20.0]),
        cpu_millis: 15.0,
    };
    Figures::of(&Measured {
        carried: taken(rounds.iter().map(round).collect(), 0),
        direct: [(0.1, 0), (5.0, 2_000)].map(|(cpu, lines)| taken(vec![[cpu; 2].map(slice).to_vec()], lines)),
        scrapes: [scrape; 2],
        machine: MachineTime { busy: 1.0, steal: 0.0, total: 2.0 },
        others: 0.0,
    })
}

fn one(metrics: f64, line: f64) -> Figures {
    figures(&[([100.0; 2], metrics, line)])
}

fn report(figures: Result<Figures, String>) -> Report {
    let Suite::Observe(options) = Cli::try_parse_from(["weft-bench", "observe", "--short"]).unwrap().suite
    else {
        panic!("another suite")
    };
    Report { options, kernel: "6.1".into(), idle_share: 0.0, figures }
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-6
}

#[test]
fn a_mode_is_compared_with_off_of_the_same_round() {
    // The machine got slower by half: the ratios do not show it, the noise does.
    let figures = figures(&[([100.0, 100.0], 102.0, 110.0), ([100.0, 150.0], 127.5, 130.0)]);
    let [metrics, line] = figures.rows;
    assert!(near(metrics.ratio.min, 1.02) && near(metrics.ratio.max, 1.02), "{:?}", metrics.ratio);
    assert!(near(line.ratio.min, 1.04) && near(line.ratio.max, 1.10), "{:?}", line.ratio);
    assert!(near(figures.noise.min, 1.0) && near(figures.noise.max, 1.5), "{:?}", figures.noise);
    assert!(near(figures.direct_lines, 1.0));
}

#[test]
fn three_per_cent_for_metrics_and_ten_with_a_line_are_the_bars() {
    let held = |metrics: f64, line: f64| one(metrics, line).rows.map(|row| row.held());
    assert_eq!(held(102.9, 109.9), [true, true]);
    assert_eq!(held(99.0, 99.0), [true, true], "less is no miss");
    assert_eq!(held(103.2, 109.0), [false, true]);
    assert_eq!(held(102.0, 110.2), [true, false]);
}

#[test]
fn a_verdict_that_the_next_run_may_turn_says_so() {
    let of = |metrics: [f64; 3]| {
        let rounds = metrics.map(|metrics| ([100.0; 2], metrics, 100.0));
        figures(&rounds).rows[0].verdict()
    };
    assert_eq!(of([101.0, 102.0, 102.5]), "held");
    assert_eq!(of([104.0, 105.0, 106.0]), "MISSED");
    assert!(of([101.0, 102.0, 110.0]).starts_with("held, but not surely"));
}

#[test]
fn the_outcome_is_that_of_the_worst_row() {
    let of = |metrics, line| report(Ok(one(metrics, line))).outcome();
    assert_eq!(of(101.0, 105.0), Outcome::Good);
    assert_eq!(of(101.0, 120.0), Outcome::BarMissed);
    assert_eq!(report(Err("no lab".into())).outcome(), Outcome::Incomplete);
}

#[test]
fn the_table_has_each_row_with_its_bar_and_what_a_scrape_costs() {
    let text = report(Ok(one(102.0, 120.0))).table();
    for part in [
        "metrics                 102.00 us/conn      1000   1.020",
        "<= 1.03: held",
        "<= 1.10: MISSED",
        "direct, lines             5.00 us/conn",
        "10000 workloads",
        "15.0 ms   0.10 % of a core",
        "connect-8, 40 rounds of six slices of 250 ms",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(report(Err("no lab\nmore".into())).table().starts_with("\nno figures: no lab\n"));
}

#[test]
fn a_run_that_failed_has_no_numbers() {
    let json = report(Err("no lab".into())).json();
    assert_eq!((&json["error"], json.get("rows")), (&json!("no lab"), None));
    let json = report(Ok(one(102.0, 120.0))).json();
    assert_eq!(
        json["rows"][1]["bar"],
        json!({ "ratio": { "at_most": 1.1 }, "held": false, "is_sure": true })
    );
    assert!(near(json["rows"][0]["ratio"]["median"].as_f64().unwrap(), 1.02));
}
