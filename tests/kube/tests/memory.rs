//! Promise: ten thousand pods cost the controller well below 100 MiB, the first list's peak included.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod controllers;

use controllers::{Home, eventually, pod, so};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use kube_tests::block_on;
use serde_json::json;

const PODS: usize = 10_000;
/// In KiB: of 100 MiB, and of that not all.
const MOST: u64 = 90 * 1024;

/// A pod with what real ones carry along and nobody here needs.
fn bulky(number: usize) -> Pod {
    let address = format!("10.{}.{}.{}", number / 62_500, number / 250 % 250, number % 250 + 1);
    let labels = json!({"app": format!("web-{}", number % 100), "weft.dev/capture": "enabled", "pod-template-hash": "5d8f9c7b6"});
    let mut object = pod(&format!("web-{number}"), "one", &address, labels);
    object["metadata"]["annotations"] = json!({"checksum/config": "x".repeat(64), "note": "y".repeat(500)});
    let env: Vec<_> =
        (0..20).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "z".repeat(40)})).collect();
    object["spec"]["containers"][0]["env"] = env.into();
    object["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    object["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    serde_json::from_value(object).unwrap()
}

#[test]
fn ten_thousand_pods_cost_well_below_100_mib() {
    let home = Home::start();
    let api: Api<Pod> = Api::namespaced(home.client.clone(), "shop");
    block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let api = api.clone();
            writers.spawn(async move {
                for number in (writer..PODS).step_by(8) {
                    let object = bulky(number);
                    api.create(&PostParams::default(), &object).await.unwrap();
                    // Its kubelet's word.
                    let patch = kube::api::Patch::Merge(json!({"status": object.status}));
                    api.patch_status(&format!("web-{number}"), &Default::default(), &patch).await.unwrap();
                }
            });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap();
        }
    });
    let start = std::time::Instant::now();
    let controller = home.ready_controller("a");
    let whole = start.elapsed();
    let agent = home.agent("one", &controller);
    agent.is_whole();
    eventually("all workloads", || {
        so(agent.world().workloads().count() == PODS, agent.world().workloads().count())
    });
    let (now, peak) = controller.memory();
    println!("{PODS} pods: ready after {whole:?}, {} MiB, peak {} MiB", now / 1024, peak / 1024);
    assert!(peak < MOST, "{peak} KiB at the peak");
}
