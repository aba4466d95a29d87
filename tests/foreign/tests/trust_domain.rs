//! Promise: the mesh's trust domain is the operator's choice: `cluster.local`, which Istio has by default, does as well as
//! any other, in both roles; and a peer of another trust domain is not served, whoever signed for it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use foreign::app::{dial, echo, send_back};
use foreign::client::Windows;
use foreign::counters::moved;
use foreign::pki::Offer;
use foreign::{Cast, Key, Manner};
use futures_util::FutureExt;
use lab::row::Table;
use lab::{Lab, TRUST_DOMAIN, programs};

const TEST: &str = "any_trust_domain_will_do";
const DOMAIN: &str = "cluster.local";
const ECHO: u16 = 9002;

#[test]
fn any_trust_domain_will_do() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").trust_domain(DOMAIN).run(will_do);
}

fn will_do(lab: &Lab) -> Result<()> {
    let cast = Cast::start_in(lab, DOMAIN)?;
    let _echo = programs::peer(&cast.server, "echo", ECHO, &[])?;
    let to = SocketAddr::new(cast.server.v4().into(), ECHO);
    let mut table = Table::new(TEST);
    table.row("between two captured pods", || {
        echo(&dial(&cast.client, to)?, b"both ours")?;
        Ok(String::new())
    });
    table.row("a foreign client is served", || {
        let client = cast.call(cast.server.v4())?;
        cast.runtime.block_on(async { client.connect(to).await?.echo(b"theirs to ours").await })?;
        Ok(client.server.clone())
    });
    table.row("a foreign server is reached", || {
        let server = cast.host(Manner::default(), |arrival| send_back(arrival).boxed())?;
        echo(&dial(&cast.client, SocketAddr::new(cast.foreign.v4().into(), 80))?, b"ours to theirs")?;
        let clients = server.clients();
        ensure!(clients == [format!("spiffe://{DOMAIN}/ns/shop/sa/client")], "{clients:?}");
        server.stop()?;
        Ok(clients[0].clone())
    });
    table.row("a client of another trust domain is refused, and counted", || {
        let other = format!("spiffe://{TRUST_DOMAIN}/ns/yard/sa/caller");
        let own = cast.authority.issue(&other, Key::P256)?;
        let config = Arc::new(own.client(&cast.identity(&cast.server), &Offer::default())?);
        let labels = [("role", "server"), ("result", "peer_identity")];
        moved(lab.agent("b"), "weft_tls_handshakes_total", &labels, || {
            // TLS 1.3 tells a client of its certificate's fate with the first bytes it reads.
            let client = cast.call_as(cast.server.v4(), config, None, Windows::default());
            let served = client.and_then(|client| cast.runtime.block_on(client.connect(to)));
            ensure!(served.is_err(), "it was served");
            Ok(())
        })?;
        Ok(String::new())
    });
    table.finish();
    Ok(())
}
