#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn options(arguments: &str) -> Result<Options, clap::Error> {
    let words = ["weft-bench", "datapath"].into_iter().chain(arguments.split_ascii_whitespace());
    match Cli::try_parse_from(words)?.suite {
        Suite::Datapath(options) => Ok(options),
        other => panic!("another suite: {other:?}"),
    }
}

#[test]
fn without_a_flag_everything_is_measured_at_length() {
    let options = options("").unwrap();
    assert_eq!((options.works.as_slice(), options.paths.as_slice()), (&WORKS[..], &PATHS[..]));
    assert_eq!((options.round_count(), options.window_seconds()), (9, 4));
}

#[test]
fn single_works_can_be_measured_in_few_rounds() {
    let options = options("--pin --only rr-1,connect-8 --paths cross-node --rounds 3 --seconds 2").unwrap();
    let works: Vec<String> = options.works.iter().map(Work::to_string).collect();
    assert_eq!(works, ["rr-1", "connect-8"]);
    assert_eq!(options.paths, [Path::CrossNode]);
    assert_eq!((options.round_count(), options.window_seconds()), (3, 2));
}

#[test]
fn every_path_can_be_chosen() {
    let options = options("--paths same-node,outside").unwrap();
    assert_eq!(options.paths, [Path::SameNode, Path::Outside]);
}

#[test]
fn policies_are_measured_by_connections_in_a_full_world() {
    let options = |arguments: &str| {
        let words = ["weft-bench", "policy"].into_iter().chain(arguments.split_ascii_whitespace());
        match Cli::try_parse_from(words).unwrap().suite {
            Suite::Policy(options) => options,
            other => panic!("another suite: {other:?}"),
        }
    };
    let usual = options("");
    assert_eq!((usual.workloads, usual.policies), (10_000, 1_000));
    assert_eq!((usual.round_count(), usual.window_seconds()), (9, 4));
    let works: Vec<String> = usual.works.iter().map(Work::to_string).collect();
    assert_eq!(works, ["connect-1", "connect-8", "rr-1"]);
    let short = options("--short --only rr-1 --workloads 500 --policies 50");
    assert_eq!((short.round_count(), short.window_seconds(), short.works.len()), (3, 1, 1));
}

#[test]
fn a_short_run_has_five_rounds_of_a_second() {
    let options = options("--short").unwrap();
    assert_eq!((options.round_count(), options.window_seconds()), (5, 1));
}

#[test]
fn the_yardstick_is_asked_for_and_measures_no_noise() {
    assert!(!options("").unwrap().yardstick);
    assert!(options("--pin --short --yardstick").unwrap().yardstick);
    assert!(options("--yardstick --calibrate").is_err());
}

#[test]
fn a_work_that_is_none_is_refused_with_those_that_there_are() {
    let error = options("--only rr-2").unwrap_err().to_string();
    assert!(error.contains("throughput-1") && error.contains("http-32"), "{error}");
}

#[test]
fn observability_is_measured_in_many_short_rounds() {
    let options = |arguments: &str| {
        let words = ["weft-bench", "observe"].into_iter().chain(arguments.split_ascii_whitespace());
        match Cli::try_parse_from(words).unwrap().suite {
            Suite::Observe(options) => (options.round_count(), options.millis, options.pin),
            other => panic!("another suite: {other:?}"),
        }
    };
    assert_eq!(options("--pin"), (200, 250, true));
    assert_eq!(options("--short"), (40, 250, false));
    assert_eq!(options("--short --rounds 5 --millis 500"), (5, 500, false));
}
