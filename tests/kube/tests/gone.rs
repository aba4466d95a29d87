//! The API server or the controllers are gone: established connections and new ones go on, and what changed meanwhile is
//! applied when they are back.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use kube_tests::{Cluster, Shop, traffic::Traffic};
use lab::eventually;

#[test]
fn without_an_api_server_traffic_goes_on_and_changes_follow_its_return() {
    if !kube_tests::ready("without_an_api_server_traffic_goes_on_and_changes_follow_its_return") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = Shop::open(cluster)?;
        cluster.api().stop();
        shop.traffic.await_more(200)?;
        cluster.api().start_again()?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)?;
        shop.traffic.await_more(20)?;
        shop.traffic.close()
    });
}

#[test]
fn without_a_controller_traffic_goes_on_and_changes_follow_its_return() {
    if !kube_tests::ready("without_a_controller_traffic_goes_on_and_changes_follow_its_return") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = Shop::open(cluster)?;
        cluster.controller().kill();
        shop.traffic.await_more(200)?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        shop.traffic.await_more(20)?;
        cluster.controller().start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)?;
        shop.traffic.close()
    });
}

#[test]
fn of_two_controllers_one_may_die_and_one_may_lose_the_api_server() {
    if !kube_tests::ready("of_two_controllers_one_may_die_and_one_may_lose_the_api_server") {
        return;
    }
    Cluster::builder().node("a").node("b").replicas(2).run(|cluster| {
        let shop = Shop::open(cluster)?;
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
        shop.traffic.close()
    });
}

#[test]
fn an_agent_that_starts_with_no_controller_serves_from_its_node() {
    if !kube_tests::ready("an_agent_that_starts_with_no_controller_serves_from_its_node") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        let shop = Shop::open(cluster)?;
        shop.traffic.close()?;
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
        traffic.close()?;
        cluster.controller().start()?;
        let late = cluster.pod("shop/late").node("a").service_account("late").start()?;
        cluster.await_captured(&late)?;
        cluster.await_peers_tunnel(&late)
    });
}
