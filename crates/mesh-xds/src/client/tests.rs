#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use super::backoff::{Backoff, jitter};
use super::{Client, ClientConfig, Event, SignError, Update};

#[test]
fn waits_grow_from_100_ms_to_10_s_and_start_over() {
    let mut backoff = Backoff::default();
    assert_eq!(backoff.wait(1.0), Duration::from_millis(100));
    let mut last = Duration::ZERO;
    for _ in 0..100 {
        let wait = backoff.wait(1.0);
        assert!(wait >= last && wait <= Duration::from_secs(10));
        last = wait;
    }
    assert_eq!(last, Duration::from_secs(10));
    assert_eq!(backoff.wait(0.0), Duration::from_secs(5));
    backoff.reset();
    assert_eq!(backoff.wait(0.0), Duration::from_millis(50));
}

#[test]
fn a_controller_that_starts_a_second_later_costs_less_than_another_second() {
    let mut backoff = Backoff::default();
    let mut now = Duration::ZERO;
    while now < Duration::from_secs(1) {
        now += backoff.wait(1.0);
    }
    assert!(now < Duration::from_secs(2), "{now:?}");
}

#[test]
fn jitter_is_from_0_to_1_and_differs() {
    let all: Vec<f64> = (0..100).map(|_| jitter()).collect();
    assert!(all.iter().all(|j| (0.0..=1.0).contains(j)));
    assert!(all.iter().any(|j| *j != all[0]));
}

#[tokio::test]
async fn an_update_is_answered_once_and_dropped_means_refused() {
    let (update, answer) = Update::new(Vec::new(), true);
    update.ack();
    assert_eq!(answer.await.unwrap(), Ok(()));

    let (update, answer) = Update::new(Vec::new(), true);
    update.nack("map full");
    assert_eq!(answer.await.unwrap(), Err("map full".into()));

    let (update, answer) = Update::new(Vec::new(), true);
    drop(update);
    assert!(answer.await.unwrap().is_err());
}

async fn first_error(edit: impl FnOnce(&mut ClientConfig)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config =
        ClientConfig::new("127.0.0.1:1", dir.path().join("root.pem"), dir.path().join("token"), "one");
    edit(&mut config);
    let (_client, mut events) = Client::spawn(config);
    match events.recv().await {
        Some(Event::Disconnected { error }) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_remedy() {
    let error = first_error(|_| {}).await;
    assert!(error.contains("root.pem") && error.contains("copy the controller's"), "{error}");
    for address in ["controller", ":15010", "host:port", "host:99999", ""] {
        let error = first_error(|config| config.controller = address.into()).await;
        assert!(error.contains("HOST:PORT"), "{error}");
    }
    let error = first_error(|config| config.server_name = "not a name".into()).await;
    assert!(error.contains("not a server name"), "{error}");
}

#[tokio::test]
async fn the_task_ends_with_the_last_handle() {
    let (client, mut events) = Client::spawn(ClientConfig::new("127.0.0.1:1", "/none", "/none", "one"));
    let other = client.clone();
    drop(client);
    assert!(matches!(events.recv().await, Some(Event::Disconnected { .. })));
    drop(other);
    assert!(events.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn signing_without_a_controller_fails_in_time_and_says_why() {
    let (client, _events) = Client::spawn(ClientConfig::new("127.0.0.1:1", "/none", "/none", "one"));
    let identity = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    let error = client.sign(&identity, "").await.unwrap_err();
    assert!(matches!(&error, SignError::NotConnected(Some(why)) if why.contains("/none")), "{error}");
}
