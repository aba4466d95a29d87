#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;

fn refusal(seq: u64, reason: &str, policy: Value) -> Value {
    json!({"seq": seq, "time": "2026-01-01T00:00:00Z", "unix_ms": 1_767_225_600_000_u64 + seq, "node": "a", "event": "refused",
        "direction": "inbound", "path": "tunnel", "security": "mtls", "reason": reason,
        "detail": "rule 0 of DENY policy shop/web matches", "policy": policy,
        "source": {"namespace": "shop", "workload": "cart", "pod": "cart-0", "identity": null, "address": "10.0.0.1:4000"},
        "destination": {"namespace": "shop", "workload": "web", "pod": "web-0", "service": "web", "identity": null,
                        "address": "10.0.0.2:8080"}})
}

fn row(raw: Value) -> Row<RefusalRow> {
    Row { row: serde_json::from_value(raw.clone()).unwrap(), raw }
}

fn answer(epoch: u64, last: u64, lost: u64, numbers: &[u64]) -> Refusals {
    let refusals = numbers.iter().map(|seq| row(refusal(*seq, "no_endpoint", Value::Null)).row).collect();
    Refusals { node: "a".into(), epoch, last, lost, refusals }
}

#[test]
fn a_refusal_is_a_line_and_a_row() {
    let row = row(refusal(1, "policy_denied", json!("shop/web")));
    assert_eq!(
        line(&row.row, Style::default()),
        "2026-01-01T00:00:00Z a refused policy_denied shop/cart-0 -> shop/web-0:8080 (service web): rule 0 of DENY policy \
         shop/web matches"
    );
    let expected = "\
TIME                   EVENT     DIRECTION   REASON          SOURCE        DESTINATION       SERVICE   POLICY     DETAIL
2026-01-01T00:00:00Z   refused   inbound     policy_denied   shop/cart-0   shop/web-0:8080   web       shop/web   rule 0 of DENY policy shop/web matches
";
    assert_eq!(table(&[row]).render(Style::default()), expected);
}

#[test]
fn each_node_is_asked_for_what_is_new_there() {
    let mut cursor = Cursor::default();
    assert_eq!(cursor.question(Some(0)), "/v1/refusals?after=0");
    assert_eq!(cursor.heard(&answer(7, 9, 3, &[4, 5])), (0, true));
    assert_eq!(cursor.question(Some(0)), "/v1/refusals?after=a:5");
    assert_eq!(cursor.heard(&answer(7, 9, 2, &[8, 9])), (2, true));
    assert_eq!(cursor.heard(&answer(7, 9, 0, &[])), (0, true));
    assert_eq!(cursor.question(None), "/v1/refusals?after=a:9");
    // Started anew: its rows come in the next round.
    assert_eq!(cursor.heard(&answer(8, 12, 0, &[10, 11, 12])), (0, false));
    assert_eq!(cursor.question(None), "/v1/refusals?after=a:0");
}

#[test]
fn the_hint_names_the_most_frequent_reason_and_a_policy() {
    let rows = [
        row(refusal(1, "no_endpoint", Value::Null)),
        row(refusal(2, "policy_denied", json!("shop/web"))),
        row(refusal(3, "no_endpoint", Value::Null)),
    ];
    assert_eq!(
        hint(rows.iter().map(|row| &row.row)).unwrap(),
        "What to do: meshctl explain-error no_endpoint; the rule: meshctl policy show shop/web"
    );
    assert_eq!(hint([].iter()), None);
}

#[test]
fn a_reason_that_does_not_exist_is_a_usage_error_that_names_near_ones() {
    assert_eq!(reasons(&["policy_denied".into()]).unwrap(), [Reason::PolicyDenied]);
    let error = reasons(&["policy_denid".into()]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("policy_denied"), "{error}");
}

#[test]
fn a_node_is_asked_up_to_where_it_stood_at_first() {
    let (mut cursor, mut ends) = (Cursor::default(), Ends::default());
    let mut hear = |answer: Refusals| {
        cursor.heard(&answer);
        ends.is_before(&cursor, &answer)
    };
    // It goes on refusing while it is asked.
    assert!(hear(answer(7, 9, 0, &[4, 5])));
    assert!(hear(answer(7, 20, 0, &[6, 7, 8])));
    assert!(!hear(answer(7, 30, 0, &[9, 10, 11])));
    // Started anew: once more from the beginning.
    assert!(hear(answer(8, 2, 0, &[1, 2])));
    assert!(!hear(answer(8, 5, 0, &[1, 2])));
    assert!(!hear(answer(8, 0, 0, &[])));
}

#[test]
fn pieces_of_several_nodes_are_put_in_the_order_of_time() {
    let of = |node: &str, seq: u64| {
        let mut raw = refusal(seq, "no_endpoint", Value::Null);
        raw["node"] = node.into();
        row(raw)
    };
    // Each piece is in order, and the second begins before the first ends.
    let mut rows = vec![of("a", 1), of("b", 2), of("a", 9), of("b", 3), of("b", 9)];
    by_time(&mut rows);
    let order: Vec<_> = rows.iter().map(|row| (row.row.node.as_str(), row.row.seq)).collect();
    assert_eq!(order, [("a", 1), ("b", 2), ("b", 3), ("a", 9), ("b", 9)]);
}
