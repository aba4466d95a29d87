#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::super::super::screen::{WIDTH, width};
use super::*;

fn seen(opened: f64, failed: f64, denied: f64) -> Seen {
    Seen { opened, failed, denied, bytes: 100.0, ..Seen::default() }
}

#[test]
fn each_outcome_is_told_from_the_others() {
    let works = seen(2.0, 0.0, 0.0);
    assert_eq!(works.wrong(Outcome::Works), None);
    assert_eq!(works.wrong(Outcome::Fails), Some("none failed"));
    assert_eq!(works.wrong(Outcome::Refused), Some("none was refused"));
    let fails = seen(2.0, 1.0, 0.0);
    assert_eq!(fails.wrong(Outcome::Fails), None);
    assert_eq!(fails.wrong(Outcome::Refused), Some("none was refused"));
    let refused = seen(0.0, 1.0, 1.0);
    assert_eq!(refused.wrong(Outcome::Refused), None);
    assert_eq!(refused.wrong(Outcome::Works), Some("no connection was opened"));
    assert_eq!(seen(1.0, 1.0, 1.0).wrong(Outcome::Works), Some("some are refused"));
    assert_eq!(seen(1.0, 1.0, 1.0).wrong(Outcome::Refused), Some("some were let in"));
    let silent = Seen { bytes: 0.0, ..works };
    assert_eq!(silent.wrong(Outcome::Works), Some("not a byte was counted"));
}

#[test]
fn a_row_has_a_cell_for_each_header_and_no_zeros() {
    let row = seen(1.0, 0.0, 0.0).row(&PAIRS[0]);
    let texts: Vec<&str> = row.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["shop/frontend", "shop/web", "mutual TLS", "1.0", "–", "100 B", "–", ""]);
}

#[test]
fn quantities_are_for_people() {
    for (bytes, text) in [(0.0, "–"), (512.0, "512 B"), (1536.0, "1.5 KiB"), (3.0 * 1048576.0, "3.0 MiB")] {
        assert_eq!(human_bytes(bytes), text);
    }
    for (seconds, text) in [(0.00025, "250 µs"), (0.0034, "3.4 ms"), (1.25, "1.2 s")] {
        assert_eq!(human_seconds(seconds), text);
    }
}

#[test]
fn the_table_is_as_wide_as_a_terminal_at_most() {
    let seen = |pair: &Pair| {
        let refused = pair.outcome == Outcome::Refused;
        let reason = if refused { "policy_not_allowed" } else { "peer_refused" };
        Seen {
            connect: Some(0.0123),
            bytes: 99.0 * 1024.0,
            reason: Some(reason.into()),
            ..seen(12.3, 45.6, 0.0)
        }
    };
    let rows: Vec<Row> = PAIRS.into_iter().map(|pair| (pair, None, seen(&pair))).collect();
    let wide: Vec<String> =
        lines(Style::new(false), &rows).into_iter().filter(|line| width(line) > WIDTH).collect();
    assert_eq!(wide, Vec::<String>::new());
}
