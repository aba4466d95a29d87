#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

#[test]
fn every_condition_must_be_met_and_the_missing_are_named() {
    let ready = Ready::new();
    assert!(ready.is_ready());
    let world = ready.condition("world", "no complete world yet");
    let hooks = ready.condition("hooks", "not attached yet");
    hooks.met();
    assert_eq!(
        serde_json::to_value(ready.readiness()).unwrap(),
        serde_json::json!({
            "ready": false,
            "missing": [{"name": "world", "message": "no complete world yet"}],
        })
    );
    world.met();
    assert!(ready.readiness().ready);
    hooks.lost("detached by somebody else");
    assert_eq!(ready.readiness().missing[0].message, "detached by somebody else");
}

#[tokio::test]
async fn waiting_ends_when_the_last_condition_is_met() {
    let ready = Ready::new();
    let world = ready.condition("world", "no complete world yet");
    let waiting = tokio::spawn({
        let ready = ready.clone();
        async move { ready.wait().await }
    });
    world.met();
    waiting.await.unwrap();
}
