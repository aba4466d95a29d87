//! What the ledger of a connection's frames counts, and what it takes for a flood.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(vec![0xff; length]);
    bytes
}

/// Everything at once, or byte by byte.
fn read(frames: &[Vec<u8>], pieces: usize) -> Ledger {
    let mut ledger = Ledger::new(true);
    let bytes: Vec<u8> = [vec![b'P'; PREFACE]].iter().chain(frames).flatten().copied().collect();
    bytes.chunks(pieces).for_each(|piece| ledger.read(piece));
    ledger
}

#[test]
fn requests_are_counted_when_their_headers_are_complete_however_they_are_cut() {
    let frames = [
        frame(SETTINGS, 0, 0, 18),
        frame(HEADERS, END_HEADERS, 1, 40),
        frame(DATA, 0, 1, 1000),
        // Trailers are no request.
        frame(HEADERS, END_HEADERS | END_STREAM, 1, 10),
        frame(HEADERS, 0, 3, 5000),
        frame(CONTINUATION, 0, 3, 5000),
        frame(CONTINUATION, END_HEADERS, 3, 0),
        frame(HEADERS, END_HEADERS, 5, 0),
    ];
    for pieces in [1, 7, 100_000] {
        assert_eq!(read(&frames, pieces).requests(), Some((3, 10_000)), "in pieces of {pieces}");
    }
    let mut half = read(&frames[..2], 1);
    half.read(&frame(HEADERS, END_HEADERS, 3, 40)[..48]);
    assert_eq!(half.requests(), Some((1, 40)));
    half.read(&[0]);
    assert_eq!(half.requests(), Some((2, 40)));
}

#[test]
fn what_carries_nothing_is_a_flood_beyond_the_allowance() {
    let many = EMPTY_FRAMES.burst as usize + 2000;
    for (kind, flags, what) in [
        (PING, 0, "PING"),
        (SETTINGS, 0, "SETTINGS"),
        (DATA, 0, "empty DATA"),
        (RST_STREAM, 0, "RST_STREAM"),
        (WINDOW_UPDATE, 0, "WINDOW_UPDATE"),
        (0xaa, 0, "frames that mean nothing here"),
    ] {
        let few = vec![frame(kind, flags, 0, 0); 1000];
        assert_eq!(read(&few, 9000).flood(), None);
        let flood = vec![frame(kind, flags, 0, 0); many];
        assert_eq!(read(&flood, 9000).flood(), Some(what));
    }
}

#[test]
fn requests_with_their_resets_and_data_are_no_flood_here() {
    let mut frames = Vec::new();
    for stream in (1..100_000).step_by(2) {
        frames.push(frame(HEADERS, END_HEADERS, stream, 4));
        frames.push(frame(DATA, 0, stream, 4));
        frames.push(frame(RST_STREAM, 0, stream, 4));
    }
    assert_eq!(read(&frames, 8000).flood(), None);
}

#[test]
fn a_servers_answers_come_in_any_order() {
    let mut ledger = Ledger::new(false);
    for stream in (1..100_000).rev() {
        ledger.read(&frame(HEADERS, END_HEADERS, stream, 4));
        ledger.read(&frame(RST_STREAM, 0, stream, 4));
    }
    assert_eq!(ledger.flood(), None);
    ledger.read(&frame(PING, 0, 0, 8).repeat(20_000));
    assert_eq!(ledger.flood(), Some("PING"));
}

#[test]
fn updates_are_earned_by_what_was_sent() {
    let mut ledger = read(&[], 1);
    (0..100_000).for_each(|_| ledger.wrote(64));
    let updates = frame(WINDOW_UPDATE, 0, 1, 4).repeat(200_000);
    ledger.read(&updates);
    assert_eq!(ledger.flood(), None);
    ledger.read(&frame(WINDOW_UPDATE, 0, 1, 4).repeat(20_000));
    assert_eq!(ledger.flood(), Some("WINDOW_UPDATE"));
}

#[test]
fn an_allowance_comes_back_with_time() {
    let mut bucket = Bucket::new(Allowance { burst: 2, per_second: 1000 });
    assert!(bucket.take() && bucket.take());
    let start = Instant::now();
    while !bucket.take() {
        assert!(start.elapsed().as_secs() < 5);
    }
}
