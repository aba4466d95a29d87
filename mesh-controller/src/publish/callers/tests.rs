#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::claims::Claims;
use super::{Refusal, bearer};

/// base64url without padding.
fn encode(bytes: &[u8]) -> String {
    let text = serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap();
    text.as_str().unwrap().replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()
}

fn token(payload: &serde_json::Value) -> String {
    format!("{}.{}.{}", encode(b"{}"), encode(payload.to_string().as_bytes()), encode(b"signature"))
}

#[test]
fn a_token_tells_its_audiences_and_its_end() {
    // Of every length, so that every padding is met.
    for name in ["weft-controller", "a", "ab", "abc", "ü?>~"] {
        let read = Claims::of(&token(&json!({"aud": [name, "other"], "exp": 1_767_225_600}))).unwrap();
        assert_eq!(read.audiences, [name, "other"]);
        assert_eq!(read.expires.duration_since(UNIX_EPOCH).unwrap().as_secs(), 1_767_225_600);
    }
    let read = Claims::of(&token(&json!({"aud": "weft-controller", "exp": 1}))).unwrap();
    assert_eq!(read.audiences, ["weft-controller"]);
    assert!(read.expires < SystemTime::now());
}

#[test]
fn what_is_no_service_account_token_has_no_claims() {
    let good = token(&json!({"aud": "a", "exp": 1}));
    let long = token(&json!({"aud": "a".repeat(20_000), "exp": 1}));
    for text in [
        "",
        ".",
        "..",
        "token-of-one",
        "a.b.c",
        &good[1..good.len() / 2],
        &format!("{good}.x"),
        &token(&json!({"aud": "a"})),
        &token(&json!({"exp": 1})),
        &token(&json!({"aud": 1, "exp": 1})),
        &token(&json!({"aud": "a", "exp": -1})),
        &token(&json!({"aud": "a", "exp": u64::MAX})),
        &token(&json!([])),
        &long,
    ] {
        assert_eq!(Claims::of(text), None, "{text}");
    }
}

#[test]
fn a_bearer_token_is_what_follows_the_word() {
    let of = |value: Option<&str>| {
        let mut metadata = MetadataMap::new();
        if let Some(value) = value {
            metadata.insert("authorization", value.parse().unwrap());
        }
        bearer(&metadata).map(str::to_owned)
    };
    assert_eq!(of(Some("Bearer abc")).unwrap(), "abc");
    assert_eq!(of(Some("bearer  abc ")).unwrap(), "abc");
    for value in [None, Some(""), Some("Bearer"), Some("Bearer  "), Some("Basic abc"), Some("abc")] {
        assert_eq!(of(value), Err(Refusal::NoToken), "{value:?}");
    }
}

#[test]
fn every_refusal_has_a_word_of_its_own_and_a_status_that_agents_understand() {
    let all = [
        (Refusal::NoToken, Code::Unauthenticated),
        (Refusal::UnknownToken, Code::Unauthenticated),
        (Refusal::Malformed, Code::Unauthenticated),
        (Refusal::Expired, Code::Unauthenticated),
        (Refusal::Audience { wanted: "weft-controller".into() }, Code::Unauthenticated),
        (Refusal::NotAccepted("why".into()), Code::Unauthenticated),
        (Refusal::ServiceAccount { got: "a".into(), wanted: "b".into() }, Code::PermissionDenied),
        (Refusal::NoNode, Code::Unauthenticated),
        (Refusal::OtherNode { token: "a".into(), said: "b".into() }, Code::PermissionDenied),
        (Refusal::Unavailable("why".into()), Code::Unavailable),
    ];
    let words: std::collections::BTreeSet<_> = all.iter().map(|(refusal, _)| refusal.reason()).collect();
    assert_eq!(words.len(), all.len());
    for (refusal, code) in all {
        assert_eq!(refusal.status().code(), code, "{refusal:?}");
        assert!(!refusal.status().message().is_empty());
    }
    // The remedy is in the words.
    assert!(Refusal::NoNode.to_string().contains("Kubernetes 1.32"));
    assert!(Refusal::Audience { wanted: "w".into() }.to_string().contains("audience: w"));
}
