//! Who may follow the world.

use crate::lab::{Agent, Lab, eventually, settle};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_until_it_is_right() {
    let lab = Lab::start().await;
    let config = lab.agent_config("one");
    lab.private("token-one", "token-of-nobody\n");
    let agent = Agent::start(config);
    let error = eventually("the refusal", || agent.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("refused") && error.contains("token"), "{error}");
    assert!(!agent.world().is_complete());
    // The agent reads its token anew.
    lab.private("token-one", "token-of-one\n");
    agent.whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_own_node_alone() {
    let lab = Lab::start().await;
    let mut config = lab.agent_config("one");
    config.node = "two".into();
    let agent = Agent::start(config);
    let error = eventually("the refusal", || agent.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("node one's") && error.contains("two"), "{error}");
    assert!(!agent.world().is_complete());
    let metrics = lab.metrics("/metrics").await;
    let other = "weft_controller_unauthenticated_total{reason=\"other_node\"} ";
    assert!(metrics.lines().any(|line| line.starts_with(other) && !line.ends_with(" 0")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_empty_token_is_the_agents_own_error() {
    let lab = Lab::start().await;
    let config = lab.agent_config("one");
    lab.private("token-one", "\n");
    let agent = Agent::start(config);
    let error = eventually("the error", || agent.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("holds no token"), "{error}");
    std::fs::remove_file(lab.path("token-one")).unwrap();
    eventually("the other error", || {
        agent
            .errors()
            .iter()
            .any(|error| error.contains("cannot read the token"))
            .then_some(())
            .ok_or(agent.errors())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_added_while_running_count_and_a_file_that_others_read_counts_for_nobody() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::start().await;
    let four = lab.agent("four");
    eventually("the refusal", || four.errors().first().cloned().ok_or(())).await;
    lab.private("tokens", "one token-of-one\nfour token-of-four\n");
    four.whole().await;

    std::fs::set_permissions(lab.path("tokens"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let one = lab.agent("one");
    let error = eventually("the refusal", || one.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("cannot read its file of tokens"), "{error}");
    assert!(four.client.status().connected, "streams that are up stay up");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gives_its_token_only_to_the_controller_that_its_roots_vouch_for() {
    let lab = Lab::start().await;
    let other = Lab::start().await;
    let mut config = lab.agent_config("one");
    config.roots = other.path("state/root.pem");
    let agent = Agent::start(config);
    let error = eventually("the error", || agent.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("certificate"), "{error}");

    let mut config = lab.agent_config("two");
    config.server_name = "another-controller.weft-system.svc".into();
    let agent = Agent::start(config);
    let error = eventually("the error", || agent.errors().first().cloned().ok_or(())).await;
    assert!(error.contains("certificate"), "{error}");
    settle().await;
    let metrics = lab.metrics("/metrics").await;
    let mut refused =
        metrics.lines().filter(|line| line.starts_with("weft_controller_unauthenticated_total{"));
    assert!(refused.all(|line| line.ends_with(" 0")), "{metrics}");
}
