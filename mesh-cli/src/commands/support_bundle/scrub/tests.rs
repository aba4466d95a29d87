#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use serde_json::json;

use super::{STRUCK, Value, json as clean, text};

/// Put together, so that no scanner takes this file for a leak.
pub(in super::super) fn key(label: &str) -> String {
    format!("-----BEGIN {label}-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nplanted-1+/=\n-----END {label}-----")
}

pub(in super::super) fn token() -> String {
    ["eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9", "eyJpc3MiOiJwbGFudGVkLTIifQ", "c2lnbmF0dXJlLXBsYW50ZWQ"].join(".")
}

#[test]
fn secrets_are_struck_out_wherever_they_stand() {
    for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
        for planted in [key(label), serde_json::to_string(&json!({"a": key(label), "b": 1})).unwrap()] {
            let clean = text(&planted);
            assert!(
                !clean.contains("planted") && !clean.contains("MIIE") && clean.contains(STRUCK),
                "{clean}"
            );
        }
    }
    let half = &key("PRIVATE KEY")[..60];
    assert!(!text(half).contains("MIIE"), "{}", text(half));
    for planted in [
        token(),
        format!("Authorization: Bearer {}", token()),
        "authorization: bearer abcdef0123456789abcdef".to_owned(),
        "Basic YWRtaW46cGxhbnRlZA==".to_owned(),
        r#"{"client-key-data": "cGxhbnRlZA==", "x": 1}"#.to_owned(),
        r#"{"access_token":"planted \" still planted"}"#.to_owned(),
        "password=cGxhbnRlZA other".to_owned(),
        "API_KEY: cGxhbnRlZA".to_owned(),
    ] {
        let clean = text(&planted);
        assert!(clean.contains(STRUCK), "{planted} -> {clean}");
        for secret in ["planted", "cGxhbnRlZA", "YWRtaW46", "abcdef0123456789", "c2lnbmF0dXJl"] {
            assert!(!clean.contains(secret), "{planted} -> {clean}");
        }
    }
}

#[test]
fn what_is_public_stays() {
    let certificate = key("CERTIFICATE");
    for public in [
        certificate.as_str(),
        "spiffe://cluster.local/ns/shop/sa/web",
        r#"{"name": "token-file", "value": "/var/run/secrets/weft/token", "from": "default"}"#,
        r#"{"fingerprint": "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff"}"#,
        "weft_tls_handshakes_total{role=\"client\",result=\"ok\"} 3\n",
        "the bearer of bad news",
        "eyJ",
        r#"{"token": null}"#,
        "",
    ] {
        assert_eq!(text(public), public);
    }
}

#[test]
fn json_within_json_is_looked_into() {
    for planted in [
        r#"got {\"access_token\":\"planted\"} from b"#,
        r#"{"body":"{\"access_token\": \"planted \\\" planted\", \"x\": 1}"}"#,
        r#"\\\"password\\\":\\\"planted\\\""#,
    ] {
        let struck = text(planted);
        assert!(struck.contains(STRUCK) && !struck.contains("planted"), "{planted} -> {struck}");
    }
    assert_eq!(
        text(r#"{"body":"{\"token\":\"planted\",\"n\":12}"}"#),
        r#"{"body":"{\"token\":\"[struck out]\",\"n\":12}"}"#
    );
    let quoted = json!({"access_token": "planted", "n": 12}).to_string();
    let struck = json!({"access_token": STRUCK, "n": 12}).to_string();
    assert_eq!(clean(json!({"body": quoted})), json!({"body": struck}));
    let twice = json!({"body": json!({"x": quoted}).to_string()});
    assert_eq!(clean(twice), json!({"body": json!({"x": struck}).to_string()}));
    // What needs nothing is not written anew.
    let spaced = json!({"body": r#"{ "n":  12 }"#});
    assert_eq!(clean(spaced.clone()), spaced);
}

#[test]
fn lists_and_objects_go_as_a_whole_and_json_stays_json() {
    let planted = json!({"password": ["planted", {"a": "planted"}], "secret": {"data": "planted ]}"}, "pin_secret": 12, "n": 1});
    let struck = json!({"password": STRUCK, "secret": STRUCK, "pin_secret": STRUCK, "n": 1});
    assert_eq!(clean(planted.clone()), struck);
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(read(&text(&planted.to_string())), struck);
    assert_eq!(
        read(&text(&json!({"body": planted.to_string()}).to_string())),
        json!({"body": struck.to_string()})
    );
    assert_eq!(text("tokens: [planted, planted] 1"), "tokens: [struck out] 1");
    // A line that ends too soon.
    for broken in
        [r#"secrets: [planted, "planted"#, r#"{"tokens": ["planted\\"#, r#"x":"{\"tokens\":[\"planted"}"#]
    {
        assert!(!text(broken).contains("planted"), "{broken} -> {}", text(broken));
    }
}

#[test]
fn keys_of_many_and_of_files_are_secret_and_so_is_who_logs_in() {
    for key in ["tls.key", "ca.key", "tokens", "credentials", "secrets", "aws_secret_key", "weft.dev/token"] {
        assert_eq!(clean(json!({key: "planted"})), json!({key: STRUCK}));
        assert_eq!(text(&format!("{key}: planted 1")), format!("{key}: [struck out] 1"));
    }
    for (planted, struck) in [
        ("https://user:planted@host:80/x", "https://[struck out]@host:80/x"),
        ("to postgres://u:p%40planted@db/x?a=b, again", "to postgres://[struck out]@db/x?a=b, again"),
        (r#"{"url":"https://planted@host"}"#, r#"{"url":"https://[struck out]@host"}"#),
    ] {
        assert_eq!(text(planted), struck);
    }
    assert_eq!(clean(json!(["https://u:planted@h"])), json!(["https://[struck out]@h"]));
    for public in [
        "cannot read /etc/weft/tls.key: no such file",
        "https://host/@x and a@b",
        "docker://registry/weft@sha256:00ff",
    ] {
        assert_eq!(text(public), public);
    }
}

#[test]
fn settings_with_a_secret_name_have_no_value_but_a_path() {
    let rows = json!([
        {"name": "foo-token", "value": "planted", "from": "flag", "otherwise": "planted"},
        {"name": "foo-token", "value": ["planted"], "otherwise": null},
        {"name": "agent.tokens", "value": "/etc/weft/tokens", "otherwise": null},
        {"name": "replicas", "value": "3", "otherwise": 1},
    ]);
    let struck = json!([
        {"name": "foo-token", "value": STRUCK, "from": "flag", "otherwise": STRUCK},
        {"name": "foo-token", "value": STRUCK, "otherwise": null},
        {"name": "agent.tokens", "value": "/etc/weft/tokens", "otherwise": null},
        {"name": "replicas", "value": "3", "otherwise": 1},
    ]);
    assert_eq!(clean(rows), struck);
}

#[test]
fn no_text_is_too_strange() {
    for strange in [
        "token:",
        "token=\\",
        "token:\\\\\"",
        "\"token\": [\\\"",
        "töken=é",
        "://@",
        "secret: {é\"é",
        "key=\u{1f511}",
    ] {
        let once = text(strange);
        assert_eq!(text(&once), once, "{strange}");
    }
}
