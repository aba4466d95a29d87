#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[tokio::test(start_paused = true)]
async fn a_trigger_reaches_those_who_wait_and_those_who_come_later() {
    let shutdown = Shutdown::new();
    let waiting = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.wait().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    shutdown.trigger();
    waiting.await.unwrap();
    shutdown.wait().await;
    assert!(shutdown.is_triggered());
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_every_hold() {
    let shutdown = Shutdown::new();
    let (first, second) = (shutdown.hold(), shutdown.hold());
    let within = Duration::from_secs(5);
    assert_eq!(shutdown.drained(within).await, Err(NotDrained { held: 2, within }));
    drop(first);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(second);
    });
    assert_eq!(shutdown.drained(within).await, Ok(()));
}

#[tokio::test]
async fn a_signal_triggers_the_token() {
    let shutdown = signals().unwrap();
    assert!(!shutdown.is_triggered());
    // SAFETY: raise takes an integer; `signals` has put a handler in place of the default action.
    assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
    tokio::time::timeout(Duration::from_secs(10), shutdown.wait()).await.unwrap();
}
