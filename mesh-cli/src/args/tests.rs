#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn all_namespaces_win_over_one() {
    let scope = |line: &[&str]| match Args::try_parse_from(line).unwrap().verb {
        Verb::Pods(scope) => scope,
        verb => panic!("{verb:?}"),
    };
    let one = scope(&["meshctl", "pods", "-n", "shop"]);
    assert!(one.covers(Some("shop")) && !one.covers(Some("other")) && !one.covers(None));
    for all in [scope(&["meshctl", "pods"]), scope(&["meshctl", "pods", "-A", "-n", "shop"])] {
        assert!(all.covers(Some("other")) && all.covers(None));
    }
}

#[test]
fn global_flags_stand_before_or_after_the_verb() {
    for line in [
        ["meshctl", "--socket", "/a", "-o", "json", "--timeout", "1.5", "pods"],
        ["meshctl", "pods", "--socket", "/a", "-o", "json", "--timeout", "1500e-3s"],
    ] {
        let args = Args::try_parse_from(line).unwrap();
        assert_eq!(args.global.socket, PathBuf::from("/a"));
        assert_eq!(args.global.output, Output::Json);
        assert_eq!(args.global.timeout, Duration::from_millis(1500));
    }
    for bad in ["0", "-1", "soon", "inf", "NaN"] {
        assert!(Args::try_parse_from(["meshctl", "pods", &format!("--timeout={bad}")]).is_err(), "{bad}");
    }
}
