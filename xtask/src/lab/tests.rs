#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    demo: DemoArgs,
}

fn parsed(words: &[&str]) -> Result<DemoArgs, clap::Error> {
    Line::try_parse_from([&["demo"], words].concat()).map(|line| line.demo)
}

#[test]
fn the_lab_is_told_what_was_asked_for() {
    for words in [&[][..], &["--keep"], &["--observe", "--seconds", "60"], &["--keep", "--observe"]] {
        let told = parsed(words).unwrap().words();
        assert_eq!(told, [&["demo"], words].concat().iter().map(OsString::from).collect::<Vec<_>>());
    }
    assert_eq!(parsed(&["--report", "file"]).unwrap().words(), ["demo", "--report", "file"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    for words in [
        &["--seconds", "60"][..],
        &["--observe", "--keep", "--seconds", "60"],
        &["--observe", "--report", "file"],
    ] {
        assert!(parsed(words).is_err(), "{words:?}");
    }
}

#[test]
fn only_what_observes_takes_a_prometheus() {
    assert!(parsed(&["--observe"]).unwrap().needs().contains(&Need::Prometheus));
    assert!(!parsed(&["--keep"]).unwrap().needs().contains(&Need::Prometheus));
}
