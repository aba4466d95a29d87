//! Enrolment is make-before-break: who is told what of a pod that comes into the mesh, and of one that leaves it.

use mesh_model::{Tunnel, Uid};
use mesh_xds::Capture;

use crate::lab::{Lab, eventually, namespace, pod, service, settle, until};

/// Pod `web` on node one, pod `client` on node two, both labelled through their namespace.
async fn shop() -> Lab {
    let lab = Lab::start().await;
    lab.write("namespace.yaml", &namespace("shop", Some("enabled")));
    lab.write("pods.yaml", &(pod("web", "one", "10.0.1.1") + &pod("client", "two", "10.0.2.1")));
    lab.write("service.yaml", &service("web", "10.96.0.1"));
    lab
}

fn uid(name: &str) -> Uid {
    Uid::new(&format!("uid-{name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_the_snapshot_and_then_the_changes() {
    let lab = shop().await;
    let two = lab.agent("two");
    two.whole().await;
    eventually("both pods and the service", || {
        let world = two.world();
        match (world.workloads().count(), world.services().count()) {
            (2, 1) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let web = two.workload("uid-web").unwrap();
    assert!(web.enrolled);
    assert_eq!(&*web.node, "one");
    assert_eq!(web.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    let service = two.service("shop", "web").unwrap();
    assert_eq!(service.endpoints[0].address.to_string(), "10.0.1.1");
    assert_eq!(service.endpoints[0].workload, Some(uid("web")));

    lab.write("more.yaml", &pod("late", "two", "10.0.2.2"));
    eventually("the new pod", || two.workload("uid-late").ok_or(())).await;
    lab.remove("more.yaml");
    eventually("its end", || two.workload("uid-late").map_or(Ok(()), Err)).await;
    assert!(two.errors().is_empty(), "{:?}", two.errors());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_offered_as_hbone_once_its_own_agent_reports_it_captured() {
    let lab = shop().await;
    let (one, two) = (lab.agent("one"), lab.agent("two"));
    two.has_tunnel("uid-web", Tunnel::None).await;
    // Not node two's to say.
    two.client.report(uid("web"), Capture::Captured);
    settle().await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::None));

    one.client.report(uid("web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
    one.has_tunnel("uid-web", Tunnel::Hbone).await;
    // Reports of an uncaptured pod with its reason change nothing for the peers.
    two.client.report(uid("client"), Capture::Gone { reason: "no network namespace".into() });
    settle().await;
    assert_eq!(one.tunnel("uid-client"), Some(Tunnel::None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlabelled_pod_is_withdrawn_at_once_and_released_when_all_have_acknowledged() {
    let lab = shop().await;
    let (one, two, three) = (lab.agent("one"), lab.agent("two"), lab.agent("three"));
    one.client.report(uid("web"), Capture::Captured);
    for agent in [&one, &two, &three] {
        agent.has_tunnel("uid-web", Tunnel::Hbone).await;
    }

    three.deaf(true);
    lab.write("namespace.yaml", &namespace("shop", None));
    two.has_tunnel("uid-web", Tunnel::Withdrawn).await;
    eventually("the label to be seen as gone", || match one.workload("uid-web") {
        Some(web) if !web.enrolled => Ok(()),
        other => Err(other),
    })
    .await;
    one.client.report(uid("web"), Capture::Leaving);
    settle().await;
    assert_eq!(three.tunnel("uid-web"), Some(Tunnel::Hbone), "it has not applied the change");
    assert!(!one.is_released("uid-web"), "an agent may still dial the pod by tunnel");

    three.deaf(false);
    eventually("the release", || one.is_released("uid-web").then_some(()).ok_or(three.tunnel("uid-web")))
        .await;
    assert_eq!(three.tunnel("uid-web"), Some(Tunnel::Withdrawn));
    assert!(!two.is_released("uid-web"), "only its own agent is told");

    // And back again.
    lab.write("namespace.yaml", &namespace("shop", Some("enabled")));
    eventually("the label to be back", || match one.workload("uid-web") {
        Some(web) if web.enrolled => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Withdrawn), "not before the agent says so");
    one.client.report(uid("web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_holds_up_no_release() {
    let lab = shop().await;
    let (one, two) = (lab.agent("one"), lab.agent("two"));
    one.client.report(uid("web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
    two.deaf(true);
    one.client.report(uid("web"), Capture::Leaving);
    settle().await;
    assert!(!one.is_released("uid-web"));
    two.die().await;
    eventually("the release", || one.is_released("uid-web").then_some(()).ok_or("not released")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agent_withdraws_nothing() {
    let lab = shop().await;
    let (one, two) = (lab.agent("one"), lab.agent("two"));
    one.client.report(uid("web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
    one.die().await;
    settle().await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Hbone));
    let three = lab.agent("three");
    three.has_tunnel("uid-web", Tunnel::Hbone).await;

    // Its successor has not captured anything yet, and says nothing of it.
    let one = lab.agent("one");
    one.whole().await;
    settle().await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Hbone));
    one.client.report(uid("web"), Capture::Gone { reason: "cannot open listeners".into() });
    two.has_tunnel("uid-web", Tunnel::Withdrawn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_agent_holds_up_nobody_and_gets_the_newest() {
    let lab = shop().await;
    let (slow, quick) = (lab.agent("one"), lab.agent("two"));
    slow.whole().await;
    quick.whole().await;
    slow.deaf(true);
    for number in 1..=20 {
        lab.write("moving.yaml", &pod("moving", "two", &format!("10.0.9.{number}")));
        let address: std::net::IpAddr = format!("10.0.9.{number}").parse().unwrap();
        eventually("the change", || match quick.workload("uid-moving") {
            Some(pod) if pod.addresses == [address] => Ok(()),
            other => Err(other),
        })
        .await;
    }
    let before = slow.updates();
    slow.deaf(false);
    eventually("the newest", || match slow.workload("uid-moving") {
        Some(pod) if pod.addresses == ["10.0.9.20".parse::<std::net::IpAddr>().unwrap()] => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(slow.updates() - before <= 2, "one in flight, one with all the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_an_agent_refused_is_said_again_and_holds_up_releases_until_it_is_applied() {
    let lab = shop().await;
    let (one, two) = (lab.agent("one"), lab.agent("two"));
    one.client.report(uid("web"), Capture::Captured);
    two.has_tunnel("uid-web", Tunnel::Hbone).await;
    two.refuse(usize::MAX);
    one.client.report(uid("web"), Capture::Leaving);
    until(&lab, |status| status.agents.iter().any(|row| row.refused.as_deref() == Some("a map is full")))
        .await;
    settle().await;
    assert_eq!(two.tunnel("uid-web"), Some(Tunnel::Hbone));
    assert!(!one.is_released("uid-web"));
    let metrics = lab.metrics("/metrics").await;
    let nacks = metrics.lines().find_map(|line| line.strip_prefix("weft_controller_nacks_total "));
    assert!(nacks.is_some_and(|nacks| nacks.parse::<u64>().is_ok_and(|nacks| nacks >= 1)), "{nacks:?}");
    two.refuse(0);
    two.has_tunnel("uid-web", Tunnel::Withdrawn).await;
    eventually("the release", || one.is_released("uid-web").then_some(()).ok_or(two.client.status())).await;
    let status = lab.admin("/v1/status").await;
    assert!(!status.contains("a map is full"), "over once all is acknowledged: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_opens_stream_after_stream_keeps_four() {
    let lab = shop().await;
    let agents: Vec<_> = (0..5).map(|_| lab.agent("one")).collect();
    eventually("one of them to be sent away", || {
        let errors: Vec<_> = agents.iter().flat_map(|agent| agent.errors()).collect();
        errors.iter().any(|error| error.contains("newer streams")).then_some(()).ok_or(errors)
    })
    .await;
    // Somebody else is not concerned.
    lab.agent("two").whole().await;
}
