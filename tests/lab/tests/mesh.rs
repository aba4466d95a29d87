//! Controller and agents come up in their pods, can be killed and started again, and answer on their sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use lab::{Lab, SYSTEM_NAMESPACE, programs};

#[test]
fn the_mesh_comes_up_and_can_be_killed_and_started_again() {
    if !lab::ready("the_mesh_comes_up_and_can_be_killed_and_started_again") {
        return;
    }
    Lab::builder().node("a").node("b").systemd_cgroups().run(|lab| {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").start()?;
        let server = lab.pod("shop/server").node("b").start()?;
        let outside = lab.pod("plain/one").node("b").start()?;
        for pod in [&client, &server] {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        lab.await_excluded(&outside)?;
        lab.agent("a").restart()?;
        lab.await_captured(&client)?;
        lab.controller().restart()?;
        assert!(lab.agent("b").metrics()?.contains("weft_"));
        let own = lab.agent("a").workloads()?;
        assert!(own.iter().any(|row| row["namespace"] == SYSTEM_NAMESPACE), "{own:?}");
        lab.label_namespace("shop", false)?;
        lab.await_excluded(&client)
    });
}

#[test]
fn a_capture_tells_meshed_from_plain_traffic() {
    if !lab::ready("a_capture_tells_meshed_from_plain_traffic") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        lab.namespace("shop").captured()?;
        let secret = "weft-secret-".repeat(5_000);
        let mut counts = Vec::new();
        for namespace in ["shop", "plain"] {
            let client = lab.pod(&format!("{namespace}/client")).node("a").start()?;
            let server = lab.pod(&format!("{namespace}/server")).node("b").start()?;
            if namespace == "shop" {
                lab.await_captured(&client)?;
                lab.await_captured(&server)?;
                lab.await_peers_tunnel(&server)?;
            } else {
                lab.await_excluded(&client)?;
                lab.await_excluded(&server)?;
            }
            let _nginx = programs::nginx(&server).file("secret", secret.as_str()).start()?;
            let capture = lab.capture_wire("b")?;
            let url = format!("http://{}/secret", server.v4());
            let got = client.exec(["curl", "-sS", "--max-time", "5", &url])?.ok()?.text();
            assert_eq!(got.len(), secret.len());
            let pcap = capture.stop()?;
            let syns = pcap.plaintext_syns_to(server.v4().into(), 80);
            counts.push((pcap.count_plaintext(b"weft-secret-") > 0, syns, pcap.tls_connections() > 0));
        }
        assert_eq!(counts, [(false, 0, true), (true, 1, false)]);
        Ok(())
    });
}
