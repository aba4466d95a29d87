#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn spans_are_read_as_people_write_them() {
    for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800)] {
        assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in ["", "0", "0s", "m", "10x", "1h30", "-5s", "31d", "99999999999999999999s", "1.5h"] {
        assert!(span(bad).is_err(), "{bad}");
    }
}
