#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::*;

#[test]
fn the_report_has_the_keys_that_scripts_read_and_no_others() {
    let entry = |who: Option<&'static str>| Entry {
        from: "shop/frontend".into(),
        to: "shop/web".into(),
        identity_from: who,
        identity_to: who,
        captured: who.is_some(),
        ok: true,
    };
    let wire = Wire { meshed_plaintext_bytes: 0, unmeshed_plaintext_bytes: 98_304, tls_connections: 3 };
    let report =
        Report { conversations: vec![entry(Some("spiffe://d/ns/n/sa/s")), entry(None)], wire, seconds: 9.5 };
    let value: serde_json::Value = serde_json::from_str(&render(&report).unwrap()).unwrap();
    let conversation = |who: serde_json::Value, captured: bool| {
        json!({
            "from": "shop/frontend", "to": "shop/web", "identity_from": who, "identity_to": who,
            "captured": captured, "ok": true,
        })
    };
    let expected = json!({
        "conversations": [conversation(json!("spiffe://d/ns/n/sa/s"), true), conversation(json!(null), false)],
        "wire": { "meshed_plaintext_bytes": 0, "unmeshed_plaintext_bytes": 98_304, "tls_connections": 3 },
        "seconds": 9.5,
    });
    assert_eq!(value, expected);
}

#[test]
fn identities_are_shortened_to_their_account() {
    assert_eq!(short("spiffe://lab.weft.dev/ns/shop/sa/web"), "sa/web");
    assert_eq!(short("odd"), "odd");
}
