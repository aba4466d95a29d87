//! Pods made of real containers, as containerd and runc leave them on a node, are captured as any other: what they say to
//! each other goes through the tunnel.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use anyhow::ensure;
use kube_tests::Cluster;
use kube_tests::containers::Runtime;

const SECRET: &str = "what-one-container-says-to-another";

#[test]
fn real_containers_talk_through_the_tunnel() {
    if !kube_tests::ready("real_containers_talk_through_the_tunnel") {
        return;
    }
    Cluster::builder().node("a").node("b").run(|cluster| {
        cluster.namespace("shop").captured()?;
        let web = cluster.pod("shop/web").node("b").service_account("web").label("app", "web").start()?;
        let client = cluster.pod("shop/client").node("a").service_account("client").start()?;
        let service = cluster.service("shop/web").port(80, 8080).select("app", "web").create()?;
        let runtime = Runtime::start(SECRET)?;
        let server = runtime.run(&web, &["/bin/httpd", "-f", "-p", "8080", "-h", "/www"])?;
        let shell = runtime.run(&client, &["/bin/sleep", "3600"])?;
        server.ensure_in_cgroup()?;
        shell.ensure_in_cgroup()?;
        web.await_listening(8080, Duration::from_secs(20))?;
        cluster.await_captured(&client)?;
        cluster.await_peers_tunnel(&web)?;
        let wire = cluster.capture_wire("b")?;
        for (host, port) in [(service.v4(), 80), (web.v4(), 8080)] {
            // Not wget: a static program cannot look up the name of its protocol.
            let ask = format!("printf 'GET /secret HTTP/1.0\\r\\n\\r\\n' | nc -w 10 {host} {port}");
            let answer = shell.exec(&["/bin/sh", "-c", &ask])?;
            ensure!(
                answer.contains("200 OK") && answer.ends_with(SECRET),
                "{host}:{port} answered {answer:?}"
            );
        }
        let pcap = wire.stop()?;
        let seen = pcap.count_plaintext(SECRET.as_bytes());
        ensure!(seen == 0, "{seen} times in plain text in {}", pcap.path().display());
        ensure!(pcap.tls_connections() > 0, "and no TLS connection on the wire either");
        Ok(())
    });
}
