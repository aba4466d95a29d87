#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::switch::Switch;
use super::*;

#[test]
fn colours_are_for_terminals_whose_user_did_not_decline_them() {
    assert!(colours(true, None, Some("xterm-256color")));
    assert!(colours(true, None, None));
    assert!(colours(true, Some(""), Some("xterm")));
    assert!(!colours(true, Some("1"), Some("xterm")));
    assert!(!colours(true, None, Some("dumb")));
    assert!(!colours(false, None, Some("xterm")));
}

#[test]
fn a_format_is_read_as_it_is_written() {
    for format in [Format::Text, Format::Json] {
        assert_eq!(format.to_string().parse::<Format>(), Ok(format));
    }
    assert_eq!(
        "xml".parse::<Format>().unwrap_err().to_string(),
        r#""xml" is not a log format: use text or json"#
    );
}

#[test]
fn a_filter_that_cannot_be_read_is_named_with_where_it_came_from() {
    let error = parse("RUST_LOG", "mesh_agent=loud=").unwrap_err().to_string();
    assert!(error.starts_with(r#"RUST_LOG "mesh_agent=loud=" is not a log filter"#), "{error}");
    assert!(parse("RUST_LOG", "info,mesh_agent=trace").is_ok());
}

/// A switch that writes down what it is switched to.
fn switch() -> (Switch, Arc<Mutex<Vec<String>>>) {
    let applied = Arc::new(Mutex::new(Vec::new()));
    let kept = applied.clone();
    let apply = move |filter: EnvFilter| {
        kept.lock().unwrap().push(filter.to_string());
        true
    };
    (Switch::new("info,h2=info".into(), Box::new(apply)), applied)
}

#[test]
fn a_filter_is_set_for_good_or_for_a_while_and_put_back() {
    let (switch, applied) = switch();
    assert_eq!(switch.level().filter, "info,h2=info");
    switch.set(Some("warn"), None).unwrap();
    let change = switch.set(Some(" debug "), Some(Duration::from_secs(60))).unwrap();
    assert_eq!(switch.level().filter, "debug");
    assert!(switch.level().until.is_some());
    switch.put_back(change);
    let level = switch.level();
    assert_eq!((level.filter.as_str(), level.start.as_str(), level.until), ("warn", "info,h2=info", None));
    switch.set(None, None).unwrap();
    assert_eq!(switch.level().filter, "info,h2=info");
    assert_eq!(applied.lock().unwrap()[..3], ["warn", "debug", "warn"]);
}

#[test]
fn only_who_changed_it_last_puts_it_back() {
    let (switch, _) = switch();
    let first = switch.set(Some("debug"), Some(Duration::from_secs(60))).unwrap();
    let second = switch.set(Some("trace"), Some(Duration::from_secs(60))).unwrap();
    switch.put_back(first);
    assert_eq!(switch.level().filter, "trace");
    switch.put_back(second);
    assert_eq!(switch.level().filter, "info,h2=info");
}

#[test]
fn a_bad_filter_is_one_clear_error_and_changes_nothing() {
    let (switch, applied) = switch();
    for (bad, says) in [
        ("debgu", r#""debgu" is no log level"#),
        ("info,mesh_agent", r#""mesh_agent" is no log level"#),
        ("mesh_agent=loud", r#"filter "mesh_agent=loud" is not a log filter"#),
        ("", "an empty log filter"),
        (&"a=info,".repeat(500), "at most 1024 bytes"),
    ] {
        let error = in_words(&switch.set(Some(bad), None).unwrap_err());
        assert!(error.contains(says) && !error.contains('\n'), "{bad:?}: {error}");
    }
    assert_eq!(switch.level().filter, "info,h2=info");
    assert!(applied.lock().unwrap().is_empty());
    for good in ["off", "INFO", "info,mesh_agent=debug", "mesh_agent::inbound=trace", "info,h2=off,"] {
        switch.set(Some(good), None).unwrap();
    }
}
