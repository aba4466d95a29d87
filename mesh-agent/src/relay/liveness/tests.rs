#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write;

use super::{Finding, Info};

fn info(unacked: u32, probes: u8, notsent_bytes: u32, heard_ms: u32) -> Info {
    Info {
        unacked,
        probes,
        notsent_bytes,
        last_ack_recv: heard_ms,
        last_data_recv: u32::MAX,
        ..Info::default()
    }
}

#[test]
fn what_is_answered_is_settled_however_long_ago() {
    assert_eq!(info(0, 0, 0, 3_600_000).finding(), Finding::Settled);
}

#[test]
fn what_is_in_flight_is_waited_for_up_to_20_seconds_of_silence() {
    assert_eq!(info(1, 0, 0, 19_999).finding(), Finding::Waiting);
    assert_eq!(info(1, 0, 0, 20_000).finding(), Finding::Silent);
}

#[test]
fn data_that_comes_in_is_a_sign_of_life() {
    let info = Info { last_data_recv: 100, ..info(1, 0, 0, 60_000) };
    assert_eq!(info.finding(), Finding::Waiting);
}

#[test]
fn a_closed_window_is_no_silence() {
    assert_eq!(info(0, 0, 5_000, 100_000).finding(), Finding::Waiting, "between two questions");
    assert_eq!(info(0, 1, 5_000, 100_000).finding(), Finding::Waiting, "a question is on its way");
    assert_eq!(info(0, 2, 5_000, 100_000).finding(), Finding::Silent, "the last one had no answer");
}

#[tokio::test]
async fn the_kernels_own_structure_is_read_in_the_right_places() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let settled = Info::of(&near).unwrap();
    assert_eq!((settled.state, settled.finding()), (1, Finding::Settled), "established, nothing written");
    far.write_all(b"now").unwrap();
    near.readable().await.unwrap();
    let heard = Info::of(&near).unwrap();
    assert!(heard.last_data_recv < 10_000, "{heard:?}");
    // More than both sockets hold: the far one does not read, so its window closes.
    let mut written = 0;
    while let Ok(count) = near.try_write(&[0; 65_536]) {
        written += count;
    }
    assert!(written > 0);
    let full = Info::of(&near).unwrap();
    assert!(full.notsent_bytes > 0 && full.finding() == Finding::Waiting, "{full:?}");
}
