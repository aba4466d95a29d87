//! Promise: Weft's port 15008 agrees with every cryptography that a peer of another mesh may have, FIPS and post-quantum
//! builds too, and believes every chain that leads to the mesh's root.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use foreign::client::Windows;
use foreign::pki::{Credentials, Offer};
use foreign::{Cast, Key};
use lab::row::Table;
use lab::{Lab, programs};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};

const TEST: &str = "every_foreign_handshake_is_agreed_on";
const ECHO: u16 = 9002;

#[test]
fn every_foreign_handshake_is_agreed_on() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(agreed_on);
}

fn agreed_on(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let _echo = programs::peer(&cast.server, "echo", ECHO, &[])?;
    let mut table = Table::new(TEST);
    let own = || cast.authority.issue(&cast.identity(&cast.caller), Key::P256);
    let all = Offer::default;

    table.row("key exchange: P-256 alone", || {
        talk(&cast, own()?, Offer { groups: Some(vec![kx_group::SECP256R1]), ..all() }, None)
    });
    table.row("key exchange: P-384 alone", || {
        talk(&cast, own()?, Offer { groups: Some(vec![kx_group::SECP384R1]), ..all() }, None)
    });
    table.row("key exchange: X25519 alone", || {
        talk(&cast, own()?, Offer { groups: Some(vec![kx_group::X25519]), ..all() }, None)
    });
    table.row("key exchange: X25519 with ML-KEM-768 alone", || {
        talk(&cast, own()?, Offer { groups: Some(vec![kx_group::X25519MLKEM768]), ..all() }, None)
    });
    for suite in [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        table.row(&format!("cipher: {:?} alone", suite.suite()), || {
            talk(&cast, own()?, Offer { suites: Some(vec![suite]), ..all() }, None)
        });
    }
    for key in [Key::P256, Key::P384, Key::Rsa] {
        table.row(&format!("certificate: {key:?}"), || {
            talk(&cast, cast.authority.issue(&cast.identity(&cast.caller), key)?, all(), None)
        });
    }
    for key in [Key::P256, Key::Rsa] {
        table.row(&format!("certificate: {key:?}, through an intermediate authority"), || {
            talk(&cast, cast.authority.issue_through(&cast.identity(&cast.caller), key)?, all(), None)
        });
    }
    table.row("server name: none", || talk(&cast, own()?, all(), None));
    for name in
        ["server.shop.svc.cluster.local", "outbound_.80_._.server.shop.svc.cluster.local", "localhost"]
    {
        table.row(&format!("server name: {name}"), || talk(&cast, own()?, all(), Some(name)));
    }
    table.row("a session that is resumed has its identity too", || {
        let config = own()?.client(&cast.identity(&cast.server), &all())?;
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            kinds.push(with(&cast, config.clone(), None)?);
        }
        ensure!(kinds[2].contains("Resumed"), "{kinds:?}");
        Ok(kinds.pop().expect("three"))
    });
    table.finish();
    Ok(())
}

fn talk(cast: &Cast, own: Credentials, offer: Offer, name: Option<&'static str>) -> Result<String> {
    let mut config = own.client(&cast.identity(&cast.server), &offer)?;
    config.enable_sni = name.is_some();
    config.resumption = rustls::client::Resumption::disabled();
    with(cast, Arc::new(config), name)
}

fn with(cast: &Cast, config: Arc<rustls::ClientConfig>, name: Option<&'static str>) -> Result<String> {
    let client = cast.call_as(cast.server.v4(), config, name, Windows::default())?;
    cast.runtime.block_on(async {
        let to = SocketAddr::new(cast.server.v4().into(), ECHO);
        let mut stream = client.connect(to).await?;
        stream.echo(b"agreed").await
    })?;
    Ok(client.agreed.clone())
}
