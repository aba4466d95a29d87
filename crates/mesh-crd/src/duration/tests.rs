//! Which texts are a time, and how one that is none is named.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use super::parse;

#[test]
fn numbers_with_units_add_up() {
    for (text, seconds) in [("24h", 86_400), ("1h30m", 5_400), ("45s", 45), ("7d", 604_800), ("0s", 0)] {
        assert_eq!(parse(text).unwrap(), Duration::from_secs(seconds), "{text}");
    }
    assert_eq!(parse("1m500ms").unwrap(), Duration::from_millis(60_500));
    assert_eq!(parse("250ms1s").unwrap(), Duration::from_millis(1_250));
}

#[test]
fn what_is_no_time_is_named() {
    for text in ["", "24", "h", "1w", "-1h", "1.5h", "24 h", "99999999999999999999s", "18446744073709551615d"]
    {
        assert!(parse(text).unwrap_err().to_string().contains(&format!("{text:?}")), "{text}");
    }
}
