#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

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
