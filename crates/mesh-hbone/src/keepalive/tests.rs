//! Who is silent is found, and who has answered in time is not, however late that is read.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::poll_fn;

use super::*;

const SHORT: Duration = Duration::from_millis(5);

async fn look(keepalive: &mut KeepAlive, heard: u64) -> Look {
    poll_fn(|cx| keepalive.poll(cx, heard)).await
}

/// One that has asked.
async fn asking() -> KeepAlive {
    let mut keepalive = KeepAlive::new(None, SHORT, SHORT);
    assert_eq!(look(&mut keepalive, 0).await, Look::Alive);
    keepalive
}

#[tokio::test]
async fn who_stays_silent_is_dead_after_one_more_turn() {
    let mut keepalive = asking().await;
    let start = Instant::now();
    assert_eq!(look(&mut keepalive, 0).await, Look::Dead);
    assert!(start.elapsed() >= LAST_LOOK, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_is_read_after_the_timeout_counts() {
    let mut keepalive = asking().await;
    tokio::time::sleep(SHORT * 4).await;
    // The time is over, and nothing was read so far: the turn in which it is.
    assert!(poll_fn(|cx| Poll::Ready(keepalive.poll(cx, 0))).await.is_pending());
    assert_eq!(look(&mut keepalive, 1).await, Look::Alive);
    // And asks again as if nothing had been.
    assert_eq!(look(&mut keepalive, 1).await, Look::Alive);
    assert_eq!(look(&mut keepalive, 1).await, Look::Dead);
}
