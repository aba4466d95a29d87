#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;

use mesh_telemetry::api::Timestamp;

use super::fields::Fields;
use super::table::{Cell, Table};
use super::*;

const PLAIN: Style = Style { colours: false, wide: true, no_headers: false, width: None };
const COLOURS: Style = Style { colours: true, ..PLAIN };

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

#[test]
fn a_narrow_terminal_cuts_columns_and_then_the_line_and_a_pipe_nothing() {
    let mut table = Table::new(&["NAME", "IDENTITY", "MESSAGE"]);
    let id = "spiffe://cluster.local/ns/shop/sa/web";
    table.row(["web-0".into(), id.into(), "something that takes its time to say".into()]);
    let at = |width| table.render(Style { width: Some(width), ..PLAIN });
    assert_eq!(at(200), table.render(PLAIN));
    let expected = "\
NAME    IDENTITY        MESSAGE
web-0   …/shop/sa/web   something th…
";
    assert_eq!(at(37), expected);
    for width in [1, 5, 12, 40] {
        let text = at(width);
        assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
    }
    assert!(table.render(PLAIN).contains(id));
}

#[test]
fn a_narrow_terminal_does_without_what_can_be_spared() {
    let mut table = Table::new(&["NAME", "UID", "NODE", "STATE"]).spare(&["UID", "NODE"]);
    table.row(["web-0".into(), "0123456789".into(), "node-a".into(), "captured".into()]);
    let at = |width, wide| table.render(Style { width: Some(width), wide, ..PLAIN });
    assert!(at(38, false).contains("UID          NODE     STATE"), "{}", at(38, false));
    assert_eq!(at(37, false), "NAME    NODE     STATE\nweb-0   node-a   captured\n");
    assert_eq!(at(20, false), "NAME    STATE\nweb-0   captured\n");
    assert!(at(37, true).contains("UID"), "whoever asks for all gets all, and cut");
    assert!(table.render(Style { width: None, wide: false, ..PLAIN }).contains("UID"), "as a pipe does");
}

#[test]
fn wide_adds_columns_and_no_headers_takes_the_first_line() {
    let mut table = Table::new(&["NAME", "UID", "STATE"]).wide(&["UID"]);
    table.row(["a".into(), "1".into(), "good".into()]);
    let style = Style { wide: false, ..PLAIN };
    assert_eq!(table.render(style), "NAME   STATE\na      good\n");
    assert_eq!(table.render(Style { wide: true, ..style }), "NAME   UID   STATE\na      1     good\n");
    assert_eq!(table.render(Style { no_headers: true, ..style }), "a   good\n");
    let with = table.first("NODE", [Cell::from("n1")]);
    assert_eq!(with.render(style), "NODE   NAME   STATE\nn1     a      good\n");
}

#[test]
fn names_are_like_kubectls() {
    use serde_json::json;
    for (nouns, value, expected) in [
        ("pods", json!({"namespace": "shop", "name": "web-0", "uid": "1"}), "pod/shop/web-0"),
        ("pods", json!({"namespace": null, "name": null, "uid": "22", "node": "a"}), "pod/22"),
        ("policies", json!({"namespace": "shop", "name": "web"}), "policy/shop/web"),
        (
            "certificates",
            json!({"identity": "spiffe://cluster.local/ns/shop/sa/web"}),
            "certificate/shop/web",
        ),
        ("connections", json!({"id": 7}), "connection/7"),
        ("connections", json!({"id": 7, "node": "a"}), "connection/a/7"),
        ("agents", json!({"node": "a"}), "agent/a"),
    ] {
        assert_eq!(name::of(nouns, &value), expected);
    }
}

#[test]
fn yaml_says_what_json_says() {
    let value = serde_json::json!([{
        "name": "web-0", "yes": "yes", "number": "7", "none": null, "empty": [], "count": 7, "on": true,
        "text": "two\nlines: # \u{1b}[31m", "map": {"a b": -1.5}, "time": "2026-01-01T00:00:00Z",
    }]);
    let text = yaml::render(&value);
    assert!(!text.contains('\u{1b}'), "{text}");
    let back: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(back, value, "{text}");
    assert!(text.find("name").unwrap() < text.find("count").unwrap(), "the order of keys: {text}");
}
