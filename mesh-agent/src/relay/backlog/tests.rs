#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

fn drain(backlog: &mut Backlog, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while !backlog.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = backlog.slices(&mut slices);
        let seen: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(!seen.is_empty());
        let taken = step.min(seen.len());
        all.extend_from_slice(&seen[..taken]);
        backlog.advance(taken);
    }
    all
}

#[test]
fn bytes_come_out_in_order_whatever_the_pieces() {
    for step in [1, 7, 1024, 1 << 20] {
        let mut backlog = Backlog::default();
        let mut expected = Vec::new();
        for (n, size) in [5, 2000, 1, 1, 1023, 1024, 3, 70_000, 9].into_iter().enumerate() {
            backlog.push(vec![n as u8; size].into());
            expected.extend(vec![n as u8; size]);
        }
        assert_eq!(backlog.len(), expected.len());
        assert!(drain(&mut backlog, step) == expected, "in steps of {step}");
        assert!(backlog.is_empty());
    }
}

#[test]
fn single_bytes_that_wait_share_a_buffer() {
    let mut backlog = Backlog::default();
    for n in 0..100_000_u32 {
        backlog.push(vec![n as u8].into());
    }
    assert!(backlog.rest.is_empty());
    assert!(backlog.tail.capacity() < 400_000);
    assert!(drain(&mut backlog, 4096) == (0..100_000_u32).map(|n| n as u8).collect::<Vec<_>>());
}

#[test]
fn an_empty_backlog_holds_nothing() {
    let mut backlog = Backlog::default();
    for _ in 0..100 {
        backlog.push(vec![0; 10].into());
        backlog.push(vec![0; 5000].into());
    }
    drain(&mut backlog, 10_000);
    assert_eq!((backlog.rest.capacity(), backlog.tail.capacity()), (0, 0));
}
