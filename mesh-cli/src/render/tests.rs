#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use mesh_telemetry::api::Timestamp;

use super::fields::Fields;
use super::table::{Cell, Table};
use super::*;

const PLAIN: Style = Style { colours: false };
const COLOURS: Style = Style { colours: true };

fn table() -> Table {
    let mut table = Table::new(&["NAME", "STATE", "NOTE"]);
    table.row(["web-0".into(), Cell::toned(Tone::Good, "captured"), Cell::option(None::<u8>)]);
    table.row(["a-very-long-name".into(), Cell::toned(Tone::Bad, "unknown"), Cell::option(Some(7))]);
    table
}

#[test]
fn columns_are_aligned_and_no_line_ends_in_blanks() {
    let expected = "\
NAME               STATE      NOTE
web-0              captured   <none>
a-very-long-name   unknown    7
";
    assert_eq!(table().render(PLAIN), expected);
}

#[test]
fn colours_do_not_shift_columns() {
    let expected = "\
NAME               STATE      NOTE
web-0              \x1b[32mcaptured\x1b[0m   <none>
a-very-long-name   \x1b[31munknown\x1b[0m    7
";
    assert_eq!(table().render(COLOURS), expected);
}

#[test]
fn a_table_without_rows_is_nothing() {
    assert_eq!(Table::new(&["NAME"]).render(PLAIN), "");
}

#[test]
fn what_came_from_elsewhere_cannot_steer_the_terminal() {
    let mut table = Table::new(&["NAME"]);
    table.row(["\x1b]0;title\x07two\nlines".into()]);
    assert_eq!(table.render(COLOURS), "NAME\n\\u{1b}]0;title\\u{7}two\\nlines\n");
}

#[test]
fn fields_are_aligned_under_each_other() {
    let mut fields = Fields::default();
    fields.field("Node", "a");
    fields.list("Controller", [(Tone::Good, "one".into()), (Tone::Plain, "two".into())]);
    fields.list("Files", []);
    let expected = "\
Node:        a
Controller:  one
             two
Files:       <none>
";
    assert_eq!(fields.render(PLAIN), expected);
}

#[test]
fn quantities_are_short() {
    for (count, text) in [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0Ki"),
        (1536, "1.5Ki"),
        (10 * 1024, "10Ki"),
        (1024 * 1024 - 1, "1.0Mi"),
        (20 << 20, "20Mi"),
        (u64::MAX, "16Ei"),
    ] {
        assert_eq!(human::bytes(count), text, "{count}");
    }
    for (seconds, text) in
        [(0, "0s"), (42, "42s"), (187, "3m7s"), (18_000, "5h"), (187_200, "2d4h"), (86_401, "1d")]
    {
        assert_eq!(human::duration(seconds), text, "{seconds}");
    }
    let at = Timestamp::from_unix;
    assert_eq!(human::relative(at(160), at(100)), "in 1m");
    assert_eq!(human::relative(at(40), at(100)), "1m ago");
    assert_eq!(human::relative(at(100), at(100)), "now");
    assert_eq!(human::count(1, "pod"), "1 pod");
    assert_eq!(human::count(0, "pod"), "0 pods");
    assert_eq!(human::counts(&BTreeMap::from([("a", 1), ("b", 0), ("c", 5)])), "c 5, a 1");
}
