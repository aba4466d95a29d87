//! From files to agents: quickly, and never through a broken one.

use std::time::{Duration, Instant};

use crate::lab::{Lab, eventually, pod, settle, status, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_leaves_its_last_good_state_in_force_and_is_named() {
    let lab = Lab::start().await;
    lab.write("web.yaml", &pod("web", "one", "10.0.1.1"));
    let one = lab.agent("one");
    eventually("the pod", || one.workload("uid-web").ok_or(())).await;
    lab.write(
        "web.yaml",
        &(pod("web", "one", "10.0.1.2") + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: [}\n"),
    );
    let rows = until(&lab, |status| status.files.first().is_some_and(|row| row.error.is_some())).await.files;
    settle().await;
    let web = one.workload("uid-web").unwrap();
    assert_eq!(web.addresses, ["10.0.1.1".parse::<std::net::IpAddr>().unwrap()]);
    let error = rows[0].error.as_deref().unwrap();
    assert!(rows[0].path.ends_with("web.yaml"), "{rows:?}");
    assert!(error.contains("line 19") && error.contains("document 2"), "{error}");
    assert!(lab.metrics("/metrics").await.contains("weft_controller_config_errors 1"));
    // Other files go on.
    lab.write("other.yaml", &pod("other", "two", "10.0.2.1"));
    eventually("the other pod", || one.workload("uid-other").ok_or(())).await;

    lab.write("web.yaml", &pod("web", "one", "10.0.1.3"));
    eventually("the repair", || match one.workload("uid-web") {
        Some(web) if web.addresses == ["10.0.1.3".parse::<std::net::IpAddr>().unwrap()] => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(status(&lab).await.files.iter().all(|row| row.error.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_readiness_say_where_things_stand() {
    let lab = Lab::start().await;
    lab.write("pods.yaml", &pod("web", "one", "10.0.1.1"));
    let one = lab.agent("one");
    eventually("the pod", || one.workload("uid-web").ok_or(())).await;
    let status =
        until(&lab, |status| status.agents.first().is_some_and(|row| row.behind == 0 && row.acked.is_some()))
            .await;
    assert_eq!((status.workloads, status.services), (1, 0));
    assert_eq!(status.trust_domain, "cluster.local");
    let row = &status.agents[0];
    assert_eq!((row.node.as_str(), row.connected, row.behind), ("one", true, 0), "{row:?}");
    assert_eq!(row.acked, one.client.status().applied.map(|version| version.to_string()));
    assert!(lab.metrics("/readyz").await.contains("true"));
    assert!(lab.metrics("/metrics").await.contains("weft_controller_connected_agents 1"));
    assert!(lab.admin("/healthz").await.contains("ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_arrive_one_by_one_and_hundreds_at_once() {
    let lab = Lab::stopped();
    for number in 0..1_000 {
        let address = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        lab.write(&format!("old-{number}.yaml"), &pod(&format!("old-{number}"), "one", &address));
    }
    let mut lab = lab;
    lab.start_controller().await;
    let one = lab.agent("one");
    one.whole().await;
    eventually("1,000 pods", || match one.workloads() {
        1_000 => Ok(()),
        other => Err(other),
    })
    .await;

    let mut latencies = Vec::new();
    for number in 0..20 {
        let start = Instant::now();
        lab.write(&format!("new-{number}.yaml"), &pod(&format!("new-{number}"), "two", "10.2.0.1"));
        let uid = format!("uid-new-{number}");
        eventually("the pod", || one.workload(&uid).ok_or(())).await;
        latencies.push(one.last_update().unwrap().saturating_duration_since(start));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    latencies.sort_unstable();
    println!("one pod among 1,000: median {:?}, worst {:?}", latencies[10], latencies[19]);

    let start = Instant::now();
    for number in 0..500 {
        lab.write(&format!("burst-{number}.yaml"), &pod(&format!("burst-{number}"), "two", "10.3.0.1"));
    }
    let written = start.elapsed();
    eventually("500 more", || match one.workloads() {
        1_520 => Ok(()),
        other => Err(other),
    })
    .await;
    println!("500 pods written in {written:?}, known after {:?}", start.elapsed());
}
