#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use mesh_telemetry::api::{
    ConnectionPath, ConnectionRow, Direction, Security, Talker, TalkerPair, TalkerRow,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::fetch::Totals;
use super::view::Tab;
use super::*;
use crate::args::TalkerSort;

fn pair(source: &str, destination: &str) -> TalkerPair {
    let talker = |name: &str| Talker { namespace: Some("shop".into()), name: name.into() };
    TalkerPair {
        direction: Direction::Outbound,
        path: Some(ConnectionPath::Tunnel),
        security: Security::Mtls,
        source: talker(source),
        destination: talker(destination),
        service: Some("web".into()),
    }
}

fn talker(source: &str, destination: &str, bytes: f64, open: u64) -> TalkerRate {
    TalkerRate {
        pair: pair(source, destination),
        open,
        opened_per_second: 2.5,
        failed_per_second: 0.0,
        bytes_sent_per_second: bytes,
        bytes_received_per_second: 0.0,
        connect_ms: Some(1.25),
    }
}

fn refusal(seq: u64, reason: &str) -> RefusalRow {
    serde_json::from_value(json!({"seq": seq, "time": "2026-01-01T12:34:56Z", "unix_ms": seq, "node": "a", "event": "refused",
        "direction": "inbound", "path": "tunnel", "security": "mtls", "reason": reason, "detail": "rule 0\u{1b}[31m",
        "policy": "shop/web",
        "source": {"namespace": "shop", "workload": "cart", "pod": "cart-0", "identity": null, "address": "10.0.0.1:4000"},
        "destination": {"namespace": "shop", "workload": "web", "pod": "web-0", "service": "web", "identity": null,
                        "address": "10.0.0.2:8080"}}))
    .unwrap()
}

fn data() -> Data {
    Data {
        end: "/run/weft/agent.sock".into(),
        talkers: vec![
            talker("cart-0", "web-0", 2048.0, 3),
            talker(
                "a-source-with-a-very-long-name-0",
                "a-destination-with-a-very-long-name-0",
                1_500_000.0,
                1,
            ),
        ],
        refusals: vec![refusal(2, "policy_denied"), refusal(1, "no_endpoint")],
        refused_per_second: 0.5,
        trouble: None,
        is_measured: true,
    }
}

fn picture(width: u16, height: u16, view: &mut View, data: &Data) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, view, data)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let lines = (0..height).map(|y| {
        let line: String = (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect();
        line.trim_end().to_owned()
    });
    lines.collect()
}

fn press(view: &mut View, codes: impl IntoIterator<Item = KeyCode>) -> Act {
    codes.into_iter().map(|code| view.key(KeyEvent::new(code, KeyModifiers::NONE))).last().unwrap()
}

#[test]
fn forty_columns_show_who_whom_and_how_fast() {
    let mut view = View::new(TalkerSort::Bytes, false);
    let lines = picture(40, 8, &mut view, &data());
    assert_eq!(
        lines,
        [
            " Talkers 2  Refusals 2",
            "1.4Mi/s  5.0 new/s  4 open  0.5 refused/",
            "SOURCE          DESTINATION      BYTES/S",
            "shop/a-source-… shop/a-destina…    1.4Mi",
            "shop/cart-0     shop/web-0         2.0Ki",
            "",
            "",
            "q quit  ? help  Tab  / filter  p pause",
        ]
    );
}

#[test]
fn eighty_columns_show_connections_too() {
    let mut view = View::new(TalkerSort::Bytes, false);
    let lines = picture(80, 6, &mut view, &data());
    for header in ["SOURCE", "DESTINATION", "BYTES/S", "CONN/S", "OPEN", "SECURITY"] {
        assert!(lines[2].contains(header), "{header} in {lines:#?}");
    }
    assert!(!lines[2].contains("DIRECTION"), "{lines:#?}");
    assert!(lines[0].ends_with("/run/weft/agent.sock"), "{lines:#?}");
    assert!(lines[5].contains("s bytes"), "{lines:#?}");
}

#[test]
fn a_hundred_and_sixty_columns_show_everything() {
    let mut view = View::new(TalkerSort::Bytes, false);
    let lines = picture(160, 6, &mut view, &data());
    for header in ["SERVICE", "SENT/S", "RECV/S", "CONNECT", "DIRECTION"] {
        assert!(lines[2].contains(header), "{header} in {lines:#?}");
    }
    assert!(lines[3].contains("1.2ms") || lines[3].contains("1.3ms"), "{lines:#?}");
    assert!(lines[4].contains("outbound"), "{lines:#?}");
}

#[test]
fn the_smallest_of_terminals_do_not_make_it_panic() {
    for (width, height) in [(1, 1), (5, 2), (12, 3), (300, 4), (40, 60)] {
        let mut view = View::new(TalkerSort::Bytes, true);
        for _ in 0..3 {
            picture(width, height, &mut view, &data());
            view.help = true;
            picture(width, height, &mut view, &data());
            view.help = false;
            press(&mut view, [KeyCode::Tab, KeyCode::End]);
        }
    }
}

#[test]
fn refusals_have_a_list_of_their_own_and_control_characters_do_nothing() {
    for (width, shown, hidden) in
        [(40, "DESTINATI", "POLICY"), (80, "DESTINATION", "DETAIL"), (160, "DETAIL", "nothing")]
    {
        let mut view = View::new(TalkerSort::Bytes, false);
        press(&mut view, [KeyCode::Tab]);
        let lines = picture(width, 6, &mut view, &data());
        assert!(lines[2].contains(shown) && !lines[2].contains(hidden), "{width}: {lines:#?}");
        assert!(lines[3].contains("policy_denied"), "{lines:#?}");
        assert!(!lines.concat().contains('\u{1b}'), "{lines:#?}");
    }
}

#[test]
fn keys_sort_filter_pause_and_quit() {
    let mut view = View::new(TalkerSort::Bytes, false);
    let first =
        |view: &View| view.talkers(&data().talkers).first().map(|talker| talker.pair.source.name.clone());
    assert_eq!(first(&view).unwrap(), "a-source-with-a-very-long-name-0");
    press(&mut view, [KeyCode::Char('r')]);
    assert_eq!(first(&view).unwrap(), "cart-0");
    press(&mut view, [KeyCode::Char('r'), KeyCode::Char('s'), KeyCode::Char('s')]);
    assert_eq!((view.sort, first(&view).unwrap().as_str()), (TalkerSort::Open, "cart-0"));
    press(&mut view, "/CART".chars().map(KeyCode::Char));
    assert!(view.is_typing());
    press(&mut view, [KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Enter]);
    assert_eq!((view.filter.as_str(), view.talkers(&data().talkers).len()), ("CART", 1));
    press(&mut view, [KeyCode::Char('/'), KeyCode::Char('x'), KeyCode::Esc]);
    assert_eq!(view.filter, "CART");
    let lines = picture(60, 6, &mut view, &data());
    assert!(lines[5].starts_with("/CART"), "{lines:#?}");
    press(&mut view, [KeyCode::Esc, KeyCode::Char('p')]);
    assert!(view.is_paused() && view.filter.is_empty());
    press(&mut view, [KeyCode::Char('?')]);
    assert!(picture(60, 20, &mut view, &data()).concat().contains("Keys"));
    assert_eq!(press(&mut view, [KeyCode::Char('x')]), Act::Nothing);
    assert_eq!(press(&mut view, [KeyCode::Tab, KeyCode::Tab]), Act::Nothing);
    assert_eq!(view.tab, Tab::Talkers);
    assert_eq!(press(&mut view, [KeyCode::Char('q')]), Act::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Act::Quit);
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    for (colours, wanted) in [(true, true), (false, false)] {
        let mut view = View::new(TalkerSort::Bytes, colours);
        press(&mut view, [KeyCode::Tab]);
        let mut terminal = Terminal::new(TestBackend::new(80, 6)).unwrap();
        terminal.draw(|frame| draw::draw(frame, &mut view, &data())).unwrap();
        let buffer = terminal.backend().buffer();
        let is_coloured = buffer.content().iter().any(|cell| cell.fg != ratatui::style::Color::Reset);
        assert_eq!(is_coloured, wanted);
    }
}

fn connection(id: u64, sent: u64) -> ConnectionRow {
    serde_json::from_value(json!({
        "id": id, "direction": "outbound", "path": "tunnel", "security": "mtls",
        "src": {"namespace": "shop", "name": "cart-0", "identity": null, "addr": "10.0.0.1:4000"},
        "dst": {"namespace": "shop", "name": "web-0", "service": "web", "identity": null, "addr": "10.0.0.2:80"},
        "bytes_sent": sent, "bytes_received": 0,
    }))
    .unwrap()
}

fn seen(connections: Vec<ConnectionRow>) -> Vec<(String, Vec<ConnectionRow>)> {
    vec![(String::new(), connections)]
}

#[test]
fn rates_are_of_what_grew_since_the_last_look() {
    let (mut totals, mut rates, start) = (Totals::default(), Rates::default(), Instant::now());
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let first = rates.of(at(0), totals.take(&seen(vec![connection(1, 1_000_000)])));
    assert_eq!((first.len(), first[0].open, first[0].bytes_sent_per_second), (1, 1, 0.0));
    // One went on, one began, and then both ended.
    let second = rates.of(at(2), totals.take(&seen(vec![connection(1, 1_002_000), connection(2, 500)])));
    assert_eq!(
        (second[0].open, second[0].bytes_sent_per_second, second[0].opened_per_second),
        (2, 1250.0, 0.5)
    );
    let third = rates.of(at(3), totals.take(&seen(Vec::new())));
    assert_eq!((third.len(), third[0].open, third[0].bytes_sent_per_second), (1, 0, 0.0));
    // Quiet for long: gone from the list, and back once it says something.
    let later = (4..30).map(|second| rates.of(at(second), totals.take(&seen(Vec::new())))).last().unwrap();
    assert!(later.is_empty());
    let back = rates.of(at(31), totals.take(&seen(vec![connection(3, 200)])));
    assert_eq!((back.len(), back[0].opened_per_second), (1, 0.5));
}

fn of_node(node: &str, rows: Vec<TalkerRow>) -> OfNode {
    (node.into(), rows)
}

fn row(bytes: u64) -> TalkerRow {
    TalkerRow { bytes_sent: bytes, opened: bytes, ..TalkerRow::new(pair("a", "b")) }
}

#[test]
fn an_agent_that_was_started_anew_is_no_negative_rate() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    rates.of(start, vec![of_node("a", vec![row(1000)])]);
    let after = rates.of(start + Duration::from_secs(1), vec![of_node("a", vec![row(10), row(5)])]);
    assert_eq!((after.len(), after[0].bytes_sent_per_second), (1, 15.0));
}

#[test]
fn a_node_that_misses_a_sample_is_no_rate_of_all_that_it_ever_counted() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    let mut at = |seconds: u64, nodes: Vec<OfNode>| {
        let all = rates.of(start + Duration::from_secs(seconds), nodes);
        all.first().map_or(0.0, |rate| rate.bytes_sent_per_second)
    };
    let node = |name: &str, bytes: u64| of_node(name, vec![row(bytes)]);
    at(0, vec![node("a", 1_000_000), node("b", 2_000_000)]);
    assert_eq!(at(1, vec![node("a", 1_000_100), node("b", 2_000_010)]), 110.0);
    assert_eq!(at(2, vec![node("a", 1_000_200)]), 100.0);
    // Measured over the time that it did not answer in.
    assert_eq!(at(3, vec![node("a", 1_000_300), node("b", 2_000_030)]), 110.0);
    // One that comes later begins where it is.
    assert_eq!(at(4, vec![node("a", 1_000_400), node("b", 2_000_040), node("c", 9_000_000)]), 110.0);
    assert_eq!(at(5, vec![node("a", 1_000_500), node("b", 2_000_050), node("c", 9_000_001)]), 111.0);
}

#[test]
fn connections_of_a_node_that_misses_a_sample_are_not_new_afterwards() {
    let mut totals = Totals::default();
    let of = |name: &str, bytes: u64| (name.to_owned(), vec![connection(1, bytes)]);
    totals.take(&[of("a", 100), of("b", 100)]);
    totals.take(&[of("a", 110)]);
    let after = totals.take(&[of("a", 120), of("b", 150), of("c", 100)]);
    let said: Vec<_> =
        after.iter().map(|(node, rows)| (node.as_str(), rows[0].bytes_sent, rows[0].opened)).collect();
    assert_eq!(said, [("a", 20, 0), ("b", 50, 0), ("c", 0, 0)]);
}

#[test]
fn what_was_long_quiet_on_a_node_that_misses_a_sample_is_no_news() {
    let (mut rates, start) = (Rates::default(), Instant::now());
    let mut shown = |seconds: u64, names: &[&str]| {
        let nodes = names.iter().map(|name| of_node(name, vec![TalkerRow::new(pair(name, "b"))]));
        rates.of(start + Duration::from_secs(seconds), nodes.collect()).len()
    };
    assert_eq!((shown(0, &["a", "b"]), shown(1, &["a"]), shown(2, &["a", "b"])), (0, 0, 0));
}

fn sample(at: Instant, refusals: Vec<RefusalRow>, old: Vec<RefusalRow>) -> Sample {
    Sample { at, talkers: Vec::new(), refusals, old, lost: 0, missing: Vec::new() }
}

#[test]
fn refusals_are_a_rate_of_what_is_shown_and_came_since() {
    let (mut data, mut rates, start) = (Data::default(), Rates::default(), Instant::now());
    let elsewhere = |seq: u64| {
        let mut row = refusal(seq, "no_endpoint");
        row.source.namespace = Some("yard".into());
        row.destination.namespace = None;
        row
    };
    let new = |seq: u64| refusal(seq, "no_endpoint");
    data.take(&mut rates, sample(start, Vec::new(), vec![new(1), elsewhere(2)]), Some("shop"));
    assert_eq!((data.refusals.len(), data.refused_per_second), (1, 0.0));
    let second = start + Duration::from_secs(2);
    let came = Sample { lost: 50, ..sample(second, vec![new(5), elsewhere(6)], vec![new(3)]) };
    data.take(&mut rates, came, Some("shop"));
    assert_eq!(data.refused_per_second, 0.5);
    let order: Vec<u64> = data.refusals.iter().map(|row| row.seq).collect();
    assert_eq!(order, [5, 3, 1]);
}

#[test]
fn a_pause_holds_the_picture_and_loses_nothing() {
    let (mut data, mut rates, mut frozen, start) = (data(), Rates::default(), None, Instant::now());
    assert_eq!(data.shown(&mut frozen, false).refusals.len(), 2);
    assert_eq!(data.shown(&mut frozen, true).refusals.len(), 2);
    data.take(&mut rates, sample(start, vec![refusal(3, "no_endpoint")], Vec::new()), None);
    assert_eq!(data.shown(&mut frozen, true).refusals.len(), 2);
    assert_eq!(data.shown(&mut frozen, false).refusals.len(), 3);
}

#[test]
fn the_line_of_sums_counts_a_connection_with_two_rows_once() {
    let mut data = data();
    let mut both = data.talkers[0].clone();
    both.pair.direction = Direction::Inbound;
    let mut from_outside = both.clone();
    from_outside.pair.source.name = "stranger".into();
    data.talkers = vec![data.talkers[0].clone(), both, from_outside];
    let mut view = View::new(TalkerSort::Bytes, false);
    let lines = picture(80, 6, &mut view, &data);
    assert!(lines[1].starts_with("4.0Ki/s  5.0 new/s  6 open"), "{lines:#?}");
}

#[test]
fn a_pairs_name_is_who_and_whom_once() {
    let rows: Vec<Row<TalkerRate>> = [Direction::Outbound, Direction::Inbound]
        .map(|direction| {
            let mut row = talker("cart-0", "web-0\u{1b}", 1.0, 1);
            row.pair.direction = direction;
            Row { raw: json!({}), row }
        })
        .into();
    assert_eq!(names(&rows), "talker/shop/cart-0/shop/web-0\\u{1b}\n");
}

#[test]
fn a_table_for_those_without_a_terminal() {
    let row = talker("cart-0", "web-0", 2048.0, 3);
    let rows = [Row { raw: serde_json::to_value(&row).unwrap(), row }];
    let expected = "\
SOURCE        DESTINATION   SERVICE   SENT/S   RECEIVED/S   CONN/S   OPEN   CONNECT   SECURITY   DIRECTION
shop/cart-0   shop/web-0    web       2.0Ki    0            2.5      3      1.2ms     mtls       outbound
";
    assert_eq!(table(&rows).render(crate::render::Style::default()), expected);
    assert_eq!(rows[0].raw["source"]["name"], "cart-0");
    assert_eq!(rows[0].raw["bytes_sent_per_second"], 2048.0);
}
