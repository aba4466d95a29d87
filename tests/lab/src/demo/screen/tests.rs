#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn numbers_are_written_in_groups_of_three() {
    for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), text);
    }
}

#[test]
fn long_text_is_wrapped_between_words_and_line_ends_stay() {
    assert_eq!(wrap("one two three\nfour", 8), ["one two", "three", "four"]);
    assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
}

#[test]
fn without_colours_there_is_no_escape_sequence() {
    let style = Style::new(false);
    let rows = vec![vec![(Tone::Good, "a".to_owned()), (Tone::Bad, "wide cell".to_owned())]];
    let lines = table(style, &["ONE", "TWO"], &rows);
    assert_eq!(lines, ["  ONE  TWO", "  ──────────────", "  a    wide cell"]);
    assert!(!lines.concat().contains('\x1b'));
    assert_eq!(Style::new(true).paint(Tone::Good, "x"), "\x1b[32mx\x1b[0m");
}
