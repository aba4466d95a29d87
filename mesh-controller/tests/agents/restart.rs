//! The controller can be gone and come back: nobody is told less than before.

use mesh_identity::Roots;
use mesh_model::{Tunnel, Uid};
use mesh_xds::{Capture, Resource};

use crate::lab::{Lab, eventually, exists, namespace, pod, settle};

async fn captured() -> (Lab, crate::lab::Agent, crate::lab::Agent) {
    let lab = Lab::start().await;
    lab.write("namespace.yaml", &namespace("shop", Some("enabled")));
    lab.write("pods.yaml", &(pod("web", "one", "10.0.1.1") + &pod("client", "two", "10.0.2.1")));
    let (one, two) = (lab.agent("one"), lab.agent("two"));
    one.client.report(Uid::new("uid-web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
    (lab, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_restarts_still_says_hbone_while_the_pods_agent_is_away() {
    let (mut lab, one, two) = captured().await;
    one.die().await;
    lab.stop_controller().await;
    assert!(!exists(&lab.path("admin.sock")), "the socket goes with its process");
    let root = std::fs::read(lab.path("state/root.pem")).unwrap();
    lab.start_controller().await;
    assert_eq!(std::fs::read(lab.path("state/root.pem")).unwrap(), root);
    let three = lab.agent("three");
    three.has_tunnel("uid-web", Tunnel::Hbone).await;
    eventually("the reconnect", || two.client.status().connected.then_some(()).ok_or(two.client.status()))
        .await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Hbone));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_report_everything_again_to_a_controller_that_lost_its_state() {
    let (mut lab, one, _two) = captured().await;
    lab.stop_controller().await;
    std::fs::remove_file(lab.path("state/captures.json")).unwrap();
    lab.start_controller().await;
    let three = lab.agent("three");
    three.has_tunnel("uid-web", Tunnel::Hbone).await;
    // Nor is a release lost that was waited for.
    one.client.report(Uid::new("uid-web"), Capture::Leaving);
    eventually("the release", || one.is_released("uid-web").then_some(()).ok_or(one.errors())).await;
    three.has_tunnel("uid-web", Tunnel::Withdrawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_resumes_is_sent_only_what_differs() {
    let (mut lab, one, two) = captured().await;
    lab.stop_controller().await;
    let before = two.updates();
    lab.start_controller().await;
    eventually("an update", || (two.updates() > before).then_some(()).ok_or(two.errors())).await;
    settle().await;
    assert_eq!(two.updates() - before, 1, "the marker alone");
    assert_eq!(two.client.status().applied, one.client.status().applied);

    // A new process with a cache on disk.
    let mut config = lab.agent_config("three");
    config.initial = Resource::all_of(&two.world());
    let three = crate::lab::Agent::start(config);
    three.whole().await;
    assert_eq!(three.world().workloads().count(), 0, "nothing was sent, all is in the cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_starts_late_is_found_soon() {
    let mut lab = Lab::start().await;
    lab.stop_controller().await;
    let one = lab.agent("one");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!one.errors().is_empty());
    lab.start_controller().await;
    let start = std::time::Instant::now();
    one.whole().await;
    // Its backoff costs about half of the time it was away; the rest is for a slow machine.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_a_file_that_is_broken_at_the_restart_stays_with_the_agents() {
    let (mut lab, _one, two) = captured().await;
    lab.stop_controller().await;
    lab.write("pods.yaml", "apiVersion: v1\nkind: Pod\nmetadata: [\n");
    lab.start_controller().await;
    eventually("the reconnect", || two.client.status().connected.then_some(()).ok_or(two.errors())).await;
    settle().await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Hbone), "the file may still hold it");
    lab.write("pods.yaml", &pod("client", "two", "10.0.2.1"));
    eventually("the removal", || two.workload("uid-web").map_or(Ok(()), Err)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_authority_signs_and_its_root_is_handed_out() {
    let mut lab = Lab::start().await;
    lab.stop_controller().await;
    // Any authority will do: the one that the first start made.
    std::fs::rename(lab.path("state"), lab.path("given")).unwrap();
    let given = |name: &str| lab.path("given").join(name).display().to_string();
    let (cert, key) = (given("root.pem"), given("ca.key"));
    lab.flag("--ca-cert", &cert);
    lab.flag("--ca-key", &key);
    lab.start_controller().await;
    let roots = Roots::from_pem_file(&lab.path("state/root.pem")).unwrap();
    assert_eq!(roots, Roots::from_pem_file(&lab.path("given/root.pem")).unwrap());
    let one = lab.agent("one");
    one.whole().await;
    lab.stop_controller().await;

    // Another authority in the state directory is not overwritten.
    std::fs::remove_dir_all(lab.path("state")).unwrap();
    let mut other = Lab::start().await;
    other.stop_controller().await;
    std::fs::rename(other.path("state"), lab.path("state")).unwrap();
    let error = lab.try_start_controller().await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("another --state-dir"), "{error}");
}
