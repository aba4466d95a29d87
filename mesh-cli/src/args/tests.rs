#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;
use std::time::Duration;

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
        assert_eq!(args.global.socket, Some(PathBuf::from("/a")));
        assert_eq!(args.global.output, Output::Json);
        assert_eq!(args.global.timeout, Duration::from_millis(1500));
    }
    for bad in ["0", "-1", "soon", "inf", "NaN"] {
        assert!(Args::try_parse_from(["meshctl", "pods", &format!("--timeout={bad}")]).is_err(), "{bad}");
    }
}

#[test]
fn one_end_is_named_at_most_and_with_all_that_it_needs() {
    let end = |line: &[&str]| {
        let line = [&["meshctl"], line, &["status"]].concat();
        Args::try_parse_from(line).unwrap().global.end()
    };
    assert_eq!(end(&["--node", "a"]), Ok(End::Node("a".into())));
    assert_eq!(end(&["--all-nodes"]), Ok(End::AllNodes));
    assert_eq!(end(&["--controller"]), Ok(End::Controller));
    assert_eq!(end(&["--pod", "shop/web-0"]), Ok(End::Pod("shop".into(), "web-0".into())));
    let files = ["--cert", "/c", "--key", "/k", "--ca", "/a"];
    let remote = |line: &[&str]| match end(&[&files, line].concat()) {
        Ok(End::Address(remote)) => (remote.address, remote.server_name),
        other => panic!("{other:?}"),
    };
    assert_eq!(remote(&["--address", "10.0.0.1:15443"]), ("10.0.0.1:15443".into(), "10.0.0.1".into()));
    assert_eq!(remote(&["--address", "[fd00::1]:1"]).1, "fd00::1");
    assert_eq!(remote(&["--address", "a:1", "--server-name", "b"]).1, "b");
    for (bad, words) in [
        (&["--node", "a", "--all-nodes"][..], "--node and --all-nodes"),
        (&["--socket", "/a", "--node", "a"][..], "--socket and --node"),
        (&["--address", "a:1", "--socket", "/a"][..], "--socket and --address"),
        (&["--pod", "web-0"][..], "NAMESPACE/POD"),
        (&["--pod", "a/b/c"][..], "NAMESPACE/POD"),
        (&["--address", "a:1"][..], "--cert"),
        (&["--address", "a:1", "--cert", "/c", "--key", "/k"][..], "--ca"),
        (&["--address", "a", "--cert", "/c", "--key", "/k", "--ca", "/a"][..], "HOST:PORT"),
    ] {
        let error = end(bad).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    // Before the verb, behind it, and on both sides.
    let split = ["meshctl", "--address", "a:1", "status", "--cert", "/c", "--key", "/k", "--ca", "/a"];
    assert!(matches!(Args::try_parse_from(split).unwrap().global.end(), Ok(End::Address(_))));
}

#[test]
fn a_flag_wins_over_the_environment_which_wins_over_the_default() {
    let end = |line: &[&str], variables: &[(&str, &str)]| {
        let files = ["meshctl", "--cert", "/c", "--key", "/k", "--ca", "/a"];
        let line = [&files, line, &["status"]].concat();
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Args::try_parse_from(line).unwrap().global.end_with(variable)
    };
    let socket = |path: &str| Ok(End::Socket(path.into()));
    let both = [("WEFT_ADDRESS", "a:1"), ("WEFT_SOCKET", "/env")];
    assert_eq!(end(&["--socket", "/flag"], &both), socket("/flag"));
    assert_eq!(end(&["--node", "a"], &both), Ok(End::Node("a".into())));
    assert_eq!(end(&["--all-nodes"], &both), Ok(End::AllNodes));
    assert!(matches!(end(&[], &both), Ok(End::Address(remote)) if remote.address == "a:1"));
    assert_eq!(end(&[], &both[1..]), socket("/env"));
    for none in [&[][..], &[("WEFT_ADDRESS", ""), ("WEFT_SOCKET", "")]] {
        assert_eq!(end(&[], none), socket(mesh_telemetry::api::AGENT_SOCKET));
    }
    let error = end(&[], &[("WEFT_ADDRESS", "a")]).unwrap_err();
    assert!(error.contains("WEFT_ADDRESS a: write HOST:PORT"), "{error}");
}

#[test]
fn a_filter_is_for_a_day_at_most() {
    let parsed = |span: &str| Args::try_parse_from(["meshctl", "log-level", "debug", "--for", span]);
    for good in ["1s", "24h", "86400"] {
        assert!(parsed(good).is_ok(), "{good}");
    }
    for bad in ["86401", "2d", "0s"] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}
