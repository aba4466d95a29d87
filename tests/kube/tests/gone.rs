//! The API server or the controllers are gone: established connections and new ones go on, and what changed meanwhile is
//! applied when they are back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kube_tests::{Cluster, traffic::Traffic};
use lab::{Pod, Service, eventually};

struct Shop {
    web: Arc<Pod>,
    _service: Service,
    traffic: Traffic,
}

/// Captured pods that talk, over both nodes and within one.
fn shop(cluster: &Cluster) -> Result<Shop> {
    cluster.namespace("shop").captured()?;
    let web = cluster.pod("shop/web").node("b").label("app", "web").service_account("web").start()?;
    let far = cluster.pod("shop/far").node("a").service_account("client").start()?;
    let near = cluster.pod("shop/near").node("b").service_account("client").start()?;
    let service = cluster.service("shop/web").select("app", "web").port(80, 8080).create()?;
    for pod in [&web, &far, &near] {
        cluster.await_captured(pod)?;
    }
    cluster.await_peers_tunnel(&web)?;
    let to = (service.v4().into(), 80);
    let traffic = Traffic::start(&web, 8080, &[(&far, to.0, to.1), (&near, to.0, to.1)])?;
    traffic.await_more(20)?;
    Ok(Shop { web, _service: service, traffic })
}

fn nothing_failed(traffic: Traffic) -> Result<()> {
    let (done, failed) = traffic.stop()?;
    anyhow::ensure!(failed.is_empty(), "{} of {done} failed: {failed:?}", failed.len());
    Ok(())
}

#[test]
fn without_an_api_server_traffic_goes_on_and_changes_follow_its_return() {
    if !lab::ready("without_an_api_server_traffic_goes_on_and_changes_follow_its_return") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = shop(cluster)?;
        cluster.api().stop();
        shop.traffic.await_more(200)?;
        cluster.api().start_again()?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)?;
        shop.traffic.await_more(20)?;
        nothing_failed(shop.traffic)
    });
}

#[test]
fn without_a_controller_traffic_goes_on_and_changes_follow_its_return() {
    if !lab::ready("without_a_controller_traffic_goes_on_and_changes_follow_its_return") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = shop(cluster)?;
        cluster.controller().kill();
        shop.traffic.await_more(200)?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        shop.traffic.await_more(20)?;
        cluster.controller().start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)?;
        nothing_failed(shop.traffic)
    });
}

#[test]
fn of_two_controllers_one_may_die_and_one_may_lose_the_api_server() {
    if !lab::ready("of_two_controllers_one_may_die_and_one_may_lose_the_api_server") {
        return;
    }
    Cluster::builder().node("a").node("b").replicas(2).run(|cluster| {
        let shop = shop(cluster)?;
        for (number, name) in ["first", "second"].into_iter().enumerate() {
            let controller = &cluster.controllers()[number];
            controller.kill();
            controller.pod().set_ready(false)?;
            let late = cluster.pod(&format!("shop/{name}")).node("a").service_account(name).start()?;
            cluster.await_captured(&late)?;
            cluster.await_peers_tunnel(&late)?;
            controller.start()?;
            controller.pod().set_ready(true)?;
        }
        cluster.set_reachable(0, false);
        shop.traffic.await_more(50)?;
        cluster.set_reachable(0, true);
        let last = cluster.pod("shop/last").node("b").service_account("last").start()?;
        cluster.await_captured(&last)?;
        cluster.await_peers_tunnel(&last)?;
        nothing_failed(shop.traffic)
    });
}

#[test]
fn an_agent_that_starts_with_no_controller_serves_from_its_node() {
    if !lab::ready("an_agent_that_starts_with_no_controller_serves_from_its_node") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = shop(cluster)?;
        nothing_failed(shop.traffic)?;
        for agent in cluster.agents() {
            // Written a moment after it is in force.
            let cache = agent.state_dir().with_file_name("cache").join("world");
            let pods = cluster.pods();
            let pods: Vec<_> = pods.iter().filter(|pod| pod.namespace() == "shop").collect();
            eventually(Duration::from_secs(10), || {
                let bytes = std::fs::read(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
                let has = |uid: &[u8]| bytes.windows(uid.len()).any(|window| window == uid);
                match pods.iter().find(|pod| !has(pod.uid().as_bytes())) {
                    None => Ok(()),
                    Some(missing) => Err(format!("{} is not in {}", missing.key(), cache.display())),
                }
            })?;
        }
        cluster.controller().kill();
        for agent in cluster.agents() {
            agent.restart()?;
        }
        cluster.await_captured(&shop.web)?;
        let far = cluster.pods().into_iter().find(|pod| pod.name() == "far").expect("the client");
        cluster.await_captured(&far)?;
        let traffic = Traffic::start(&shop.web, 8081, &[(&far, shop.web.v4().into(), 8081)])?;
        traffic.await_more(20)?;
        nothing_failed(traffic)?;
        cluster.controller().start()?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)
    });
}
