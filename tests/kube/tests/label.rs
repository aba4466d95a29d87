//! `kubectl label namespace` puts a namespace's pods into the mesh and takes them out again, under traffic, and not one
//! connection fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use kube_tests::{Cluster, traffic::Traffic};
use lab::preflight;

#[test]
fn a_namespace_joins_and_leaves_under_traffic_and_nothing_fails() {
    if !preflight::ready("a_namespace_joins_and_leaves_under_traffic_and_nothing_fails") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        cluster.namespace("shop").create()?;
        let web = cluster.pod("shop/web").node("b").label("app", "web").service_account("web").start()?;
        let far = cluster.pod("shop/far").node("a").service_account("client").start()?;
        let near = cluster.pod("shop/near").node("b").service_account("client").start()?;
        let service = cluster.service("shop/web").select("app", "web").port(80, 8080).create()?;
        let traffic =
            Traffic::start(&web, 8080, &[(&far, service.v4().into(), 80), (&near, service.v4().into(), 80)])?;
        traffic.await_more(20)?;
        for _ in 0..2 {
            cluster.api().kubectl(&["label", "namespace", "shop", "weft.dev/capture=enabled"])?;
            for pod in [&web, &far, &near] {
                cluster.await_captured(pod)?;
            }
            cluster.await_peers_tunnel(&web)?;
            traffic.await_more(20)?;
            cluster.api().kubectl(&["label", "namespace", "shop", "weft.dev/capture-"])?;
            for pod in [&web, &far, &near] {
                cluster.await_excluded(pod)?;
            }
            traffic.await_more(20)?;
        }
        let (done, failed) = traffic.stop()?;
        assert_eq!(failed, Vec::<String>::new(), "of {done} conversations");
        Ok(())
    });
}
