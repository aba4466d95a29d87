#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
use std::path::PathBuf;

use super::Pcap;

/// A pcap file of TCP segments from 10.0.0.1:1000 to 10.0.0.2:80, each `(sequence, flags, payload)`.
fn capture(segments: &[(u32, u8, &[u8])]) -> Pcap {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_600, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (sequence, flags, payload) in segments {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(((40 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(1000_u16.to_be_bytes());
        frame.extend(80_u16.to_be_bytes());
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, *flags, 0, 0, 0, 0, 0, 0]);
        frame.extend(*payload);
        frame.resize(frame.len().max(60), 0);
        let length = frame.len() as u32;
        for word in [0, 0, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    Pcap::parse(bytes, PathBuf::new()).unwrap()
}

#[test]
fn a_needle_is_found_across_segments_that_came_out_of_order_and_twice() {
    let pcap =
        capture(&[(100, 2, b""), (105, 16, b"text and"), (101, 16, b"plain"), (101, 16, b"plaintext")]);
    assert_eq!(pcap.count_plaintext(b"plaintext and"), 0, "the two halves leave a gap at 106..");
    let pcap = capture(&[(100, 2, b""), (106, 16, b"text and"), (101, 16, b"plain"), (101, 16, b"plain")]);
    assert_eq!(pcap.count_plaintext(b"plaintext and"), 13);
    assert_eq!(pcap.count_plaintext(b"plain"), 10, "found in both packets, also the one sent again");
}

#[test]
fn sequence_numbers_may_wrap() {
    let pcap = capture(&[(u32::MAX - 1, 16, b"ab"), (0, 16, b"cd")]);
    assert_eq!(pcap.count_plaintext(b"abcd"), 4);
}

#[test]
fn padding_of_short_frames_is_no_payload() {
    let pcap = capture(&[(1, 16, b"x")]);
    assert_eq!(pcap.payload(&pcap.segments()[0]), b"x");
}

#[test]
fn syns_are_counted_once_and_client_hellos_are_known() {
    let hello = [22, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let pcap = capture(&[(9, 2, b""), (9, 2, b""), (10, 24, &hello)]);
    assert_eq!(pcap.tcp_syns(), 1);
    assert_eq!(pcap.plaintext_syns_to("10.0.0.2".parse().unwrap(), 80), 2);
    assert_eq!(pcap.plaintext_syns_to("10.0.0.2".parse().unwrap(), 81), 0);
    assert_eq!(pcap.tls_connections(), 1);
}

#[test]
fn a_connection_is_tls_only_if_every_byte_of_it_is() {
    let hello = [22, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    let is_tls = |segments: &[(u32, u8, &[u8])]| {
        let connections = capture(segments).connections();
        assert_eq!(connections.len(), 1);
        connections[0].is_tls
    };
    assert!(is_tls(&[(9, 2, b""), (10, 24, &hello)]));
    assert!(is_tls(&[(9, 2, b""), (10, 24, &hello), (20, 24, &[23, 3, 3, 0, 2, 7, 7])]));
    assert!(is_tls(&[(9, 2, b""), (10, 24, &hello), (20, 24, &[23, 3, 3, 64, 0, 7])]), "cut off by the end");
    assert!(!is_tls(&[(9, 2, b""), (10, 24, &hello), (20, 24, b"GET / HTTP/1.1")]));
    assert!(!is_tls(&[(9, 2, b""), (10, 24, b"GET / HTTP/1.1")]));
    assert!(!is_tls(&[(9, 2, b"")]), "nothing was said");
    assert!(capture(&[(10, 24, &hello)]).connections().is_empty(), "begun before the capture");
}
