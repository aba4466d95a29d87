//! Promise: an unmodified client reaches an unmodified server on another node by every address it has, under mutual TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use anyhow::{Result, ensure};
use lab::Lab;
use lab::programs::nginx;
use lab::row::Table;

const SECRET: &str = "the-payload-that-must-not-be-seen-on-the-wire";

#[test]
fn curl_reaches_nginx_by_every_address() {
    if !lab::ready("curl_reaches_nginx_by_every_address") {
        return;
    }
    Lab::builder().node("a").node("b").run(by_every_address);
}

fn by_every_address(lab: &Lab) -> Result<()> {
    lab.namespace("shop").captured()?;
    let web = lab.pod("shop/web").node("b").service_account("web").label("app", "web").start()?;
    let client = lab.pod("shop/client").node("a").service_account("client").start()?;
    let _nginx = nginx(&web).port(8080).file("secret", SECRET).start()?;
    lab.await_captured(&client)?;
    lab.await_peers_tunnel(&web)?;
    let service = datapath::cast::service(lab, &web, "web", &[(80, 8080)])?;

    let wire = lab.capture_wire("b")?;
    let mut table = Table::new("curl_reaches_nginx_by_every_address");
    for (name, url) in [
        ("service, IPv4", format!("http://{}/secret", service.v4())),
        ("pod, IPv4", format!("http://{}:8080/secret", web.v4())),
        ("service, IPv6", format!("http://[{}]/secret", service.v6())),
        ("pod, IPv6", format!("http://[{}]:8080/secret", web.v6())),
    ] {
        table.row(name, || {
            let answer = client.exec(["curl", "-sS", "--max-time", "10", &url])?.ok()?.text();
            ensure!(answer == SECRET, "answered {answer:?}");
            Ok(url.clone())
        });
    }
    let pcap = wire.stop()?;
    table.row("nothing of the payload is on the wire", || {
        let seen = pcap.count_plaintext(SECRET.as_bytes());
        ensure!(seen == 0, "{seen} times in {}", pcap.path().display());
        ensure!(pcap.tls_connections() > 0, "no TLS connection on the wire either");
        Ok(format!("{} TLS connections", pcap.tls_connections()))
    });
    table.finish();
    Ok(())
}
