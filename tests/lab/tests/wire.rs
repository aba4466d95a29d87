//! The capture between nodes finds what is there in plain text.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use lab::{Lab, programs};
use serde_json::Value;

#[test]
fn plaintext_on_the_wire_is_found_and_what_stays_on_a_node_is_not() {
    if !lab::ready("plaintext_on_the_wire_is_found_and_what_stays_on_a_node_is_not") {
        return;
    }
    Lab::builder().node("a").node("b").without_mesh().run(|lab| {
        let client = lab.pod("shop/client").node("a").start()?;
        let far = lab.pod("shop/far").node("b").start()?;
        let near = lab.pod("shop/near").node("a").start()?;
        let secret = "weft-secret-".repeat(50_000);
        let _far = programs::nginx(&far).file("secret", secret.as_str()).start()?;
        let _near = programs::nginx(&near).file("secret", secret.as_str()).start()?;
        let get =
            |host: String| client.exec(["curl", "-sS", "-o", "/dev/null", &format!("http://{host}/secret")]);

        let capture = lab.capture_wire("b")?;
        get(near.v4().to_string())?.ok()?;
        let pcap = capture.stop()?;
        assert_eq!(pcap.count_plaintext(b"weft-secret-"), 0);
        assert_eq!(pcap.tcp_syns(), 0);

        let capture = lab.capture_wire("b")?;
        get(far.v4().to_string())?.ok()?;
        get(format!("[{}]", far.v6()))?.ok()?;
        let pcap = capture.stop()?;
        assert!(pcap.count_plaintext(b"weft-secret-") >= 2 * secret.len() * 99 / 100);
        assert_eq!(pcap.tcp_syns(), 2);
        assert_eq!(pcap.plaintext_syns_to(far.v4().into(), 80), 1);
        assert_eq!(pcap.plaintext_syns_to(far.v6().into(), 80), 1);
        assert_eq!(pcap.tls_connections(), 0);
        Ok(())
    });
}

#[test]
fn the_peers_say_what_they_saw() {
    if !lab::ready("the_peers_say_what_they_saw") {
        return;
    }
    Lab::builder().node("a").node("b").without_mesh().run(|lab| {
        let client = lab.pod("shop/client").node("a").start()?;
        let server = lab.pod("shop/server").node("b").start()?;
        let _echo = programs::peer(&server, "echo", 7, &[])?;
        let _sink = programs::peer(&server, "sink", 9, &[])?;
        let _source = programs::peer(&server, "source", 19, &["--bytes", "100000000"])?;
        let _half = programs::peer(&server, "half-close-server", 20, &[])?;
        let _first = programs::peer(&server, "half-close-server", 21, &["--server-first"])?;
        let at = |port: u16| format!("{}:{port}", server.v4());

        let once = ["weft-lab-peer", "connect-once", "--send", "hi", "--shutdown", &at(7)];
        let report: Value = client.exec(once)?.ok()?.json()?;
        assert_eq!((&report["read"], &report["end"]), (&"hi".into(), &"eof".into()), "{report}");
        assert_eq!(report["peer"], at(7));

        let source = ["weft-lab-peer", "source", "--bytes", "100000000", "--to", &at(9)];
        let report: Value = client.exec(source)?.ok()?.json()?;
        assert_eq!(report["match"], true, "{report}");
        let report: Value = client.exec(["weft-lab-peer", "sink", "--to", &at(19)])?.ok()?.json()?;
        assert_eq!(report["sha256"], lab::pattern::digest(100_000_000), "{report}");

        for (port, more) in [(20, None), (21, Some("--server-first"))] {
            let to = at(port);
            let arguments = ["weft-lab-peer", "half-close-client", "--to", &to].into_iter().chain(more);
            let report: Value = client.exec(arguments)?.ok()?.json()?;
            assert_eq!((&report["match"], &report["received"]), (&true.into(), &100_000.into()), "{report}");
        }

        let hammer = client.spawn(["weft-lab-peer", "hammer", "--seconds", "30", "--to", &at(7)])?;
        let start = std::time::Instant::now();
        lab::eventually(Duration::from_secs(5), || {
            if start.elapsed() > Duration::from_secs(1) { Ok(()) } else { Err("it hammers".into()) }
        })?;
        let report: Value = hammer.stop(Duration::from_secs(10))?.ok()?.json()?;
        assert_eq!(report["failed"], 0, "{report}");
        assert!(report["ok"].as_u64().unwrap() > 100, "{report}");
        Ok(())
    });
}
