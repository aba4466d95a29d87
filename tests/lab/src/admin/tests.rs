#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
use super::parse;

#[test]
fn a_body_with_a_length_and_a_chunked_one_read_the_same() {
    let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    assert_eq!(parse(plain).unwrap(), b"hello");
    assert_eq!(parse(chunked).unwrap(), b"hello");
}

#[test]
fn a_refusal_is_an_error_that_shows_the_body() {
    let error = parse(b"HTTP/1.1 503 Service Unavailable\r\n\r\nno world\n").unwrap_err();
    assert!(error.to_string().contains("503: no world"), "{error}");
}
