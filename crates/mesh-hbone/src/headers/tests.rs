//! What a CONNECT says is what is read of it, and what cannot be said is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

fn request(authority: &str, client: &str) -> ConnectRequest {
    ConnectRequest {
        authority: authority.parse().unwrap(),
        client: client.parse().unwrap(),
        baggage: None,
        traceparent: None,
    }
}

#[test]
fn a_connect_carries_addresses_of_both_families() {
    let v4 = request("10.1.2.3:80", "10.9.8.7:40000").to_http().unwrap();
    assert_eq!(v4.uri().to_string(), "10.1.2.3:80");
    assert_eq!(v4.headers()["forwarded"], "for=\"10.9.8.7:40000\"");
    let v6 = request("[fd00::1]:80", "[fd00::2]:40000").to_http().unwrap();
    assert_eq!(v6.uri().to_string(), "[fd00::1]:80");
    assert_eq!(v6.headers()["forwarded"], "for=\"[fd00::2]:40000\"");
    let mapped = request("10.1.2.3:80", "[::ffff:10.9.8.7]:40000").to_http().unwrap();
    assert_eq!(mapped.headers()["forwarded"], "for=\"10.9.8.7:40000\"");
}

#[test]
fn what_was_sent_is_what_is_read() {
    for (authority, client) in [("10.1.2.3:80", "10.9.8.7:40000"), ("[fd00::1]:443", "[fd00::2]:1")] {
        let mut sent = request(authority, client);
        sent.baggage = Some("k8s.namespace.name=shop,service.name=cart".into());
        sent.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let http = sent.to_http().unwrap();
        let read = ConnectHead::parse(http.uri(), http.headers()).unwrap();
        let expected = ConnectHead {
            authority: sent.authority,
            forwarded_for: Some(sent.client),
            baggage: sent.baggage,
            traceparent: sent.traceparent,
        };
        assert_eq!(read, expected);
    }
}

#[test]
fn forwarded_is_read_in_all_its_forms() {
    let read = |value: &str| forwarded_for(value).map(|address| address.to_string());
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(read("for=192.0.2.43"), some("192.0.2.43:0"));
    assert_eq!(read("for=192.0.2.43:47011"), some("192.0.2.43:47011"));
    assert_eq!(read("For=\"[2001:db8:cafe::17]:4711\""), some("[2001:db8:cafe::17]:4711"));
    assert_eq!(read("for=\"[2001:db8::1]\""), some("[2001:db8::1]:0"));
    assert_eq!(read("proto=http; for=\"192.0.2.1:80\";by=203.0.113.43"), some("192.0.2.1:80"));
    assert_eq!(read("for=192.0.2.43, for=198.51.100.17"), some("192.0.2.43:0"));
    assert_eq!(read("for=\"_gazonk\""), None);
    assert_eq!(read("for=unknown"), None);
    assert_eq!(read("for="), None);
    assert_eq!(read("\""), None);
    assert_eq!(read(""), None);
}

#[test]
fn an_authority_that_is_no_address_is_refused() {
    let empty = HeaderMap::new();
    for bad in ["cart.shop.svc:80", "10.1.2.3", "user@10.1.2.3:80", "fd00:80"] {
        let uri: Uri = bad.parse().unwrap();
        assert_eq!(ConnectHead::parse(&uri, &empty), Err(bad.to_owned()));
    }
}

#[test]
fn a_header_with_a_line_break_is_an_error() {
    let mut bad = request("10.1.2.3:80", "10.9.8.7:40000");
    bad.baggage = Some("a=b\r\nx-evil: 1".into());
    assert!(matches!(bad.to_http(), Err(OpenError::Header(_))));
}
