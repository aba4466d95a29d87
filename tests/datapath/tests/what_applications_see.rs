//! Promise: an application is told the addresses that it would be told without a mesh: what it dialled, its own, who
//! dialled it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use datapath::cast::{Cast, Way};
use lab::row::Table;
use lab::{Lab, Pod, programs};
use serde_json::Value;

const TEST: &str = "applications_see_the_addresses_that_they_expect";
/// A listener for both families, and one for IPv4 alone: an application has other forms of address in its hands.
const DUAL: u16 = 9200;
const ONLY4: u16 = 9201;

#[test]
fn applications_see_the_addresses_that_they_expect() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(addresses);
}

fn addresses(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut servers = Vec::new();
    for pod in [&cast.server, &cast.store] {
        servers.push(programs::peer(pod, "addresses", DUAL, &[])?);
        let command = pod.command(["weft-lab-peer", "addresses", "--listen", &format!("0.0.0.0:{ONLY4}")])?;
        servers.push(programs::start(pod, command, ONLY4)?);
    }
    let service = cast.service(lab, "server", &[(80, DUAL), (81, ONLY4)])?;
    let outside = datapath::cast::service(lab, &cast.store, "store", &[(80, DUAL), (81, ONLY4)])?;

    let mut table = Table::new(TEST);
    for way in cast.ways() {
        let service = if way.to.name() == "store" { &outside } else { &service };
        let (pod4, pod6) = (IpAddr::from(way.to.v4()), IpAddr::from(way.to.v6()));
        let (svc4, svc6) = (IpAddr::from(service.v4()), IpAddr::from(service.v6()));
        for (name, address, port, target) in [
            ("service, IPv4", svc4, 80, DUAL),
            ("service, IPv6", svc6, 80, DUAL),
            ("service, mapped", mapped(svc4), 80, DUAL),
            ("service, IPv4 to an IPv4 listener", svc4, 81, ONLY4),
            ("service, mapped to an IPv4 listener", mapped(svc4), 81, ONLY4),
            ("pod, IPv4", pod4, DUAL, DUAL),
            ("pod, IPv6", pod6, DUAL, DUAL),
            ("pod, mapped", mapped(pod4), DUAL, DUAL),
            ("pod, IPv4 to an IPv4 listener", pod4, ONLY4, ONLY4),
        ] {
            let dialled = SocketAddr::new(address, port);
            table.row(&format!("{}, {name}", way.name), || as_expected(&way, dialled, target));
        }
    }
    table.finish();
    Ok(())
}

/// An IPv4 address as the socket of an application that speaks IPv6 alone has it.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

fn as_expected(way: &Way<'_>, dialled: SocketAddr, target: u16) -> Result<String> {
    let said: Value =
        way.from.exec(["weft-lab-peer", "addresses", "--to", &dialled.to_string()])?.ok()?.json()?;
    check(way, dialled, target, &said).with_context(|| said.to_string())?;
    Ok(format!("{} sees {}, is seen as {}", dialled, said["client"]["peer"], said["server"]["accepted"]))
}

fn check(way: &Way<'_>, dialled: SocketAddr, target: u16, said: &Value) -> Result<()> {
    let get = |end: &str, key: &str| -> Result<SocketAddr> {
        let text = said[end][key].as_str().unwrap_or_default();
        text.parse().with_context(|| format!("{end} {key} is no address: {text}"))
    };
    ensure!(said["client"] == said["later"], "the client's answers change");

    ensure!(get("client", "peer")? == dialled, "getpeername of the client is not what it dialled");
    let client = get("client", "local")?;
    ensure!(client.ip() == own(way.from, dialled.ip()), "getsockname of the client is not its own address");

    let accepted = get("server", "accepted")?;
    ensure!(accepted == get("server", "peer")?, "accept and getpeername of the server differ");
    ensure!(accepted.ip().to_canonical() == client.ip().to_canonical(), "the server is told another client");
    ensure!(
        !way.port_kept || accepted.port() == client.port(),
        "the server is told another port of the client"
    );

    let local = get("server", "local")?;
    let expected = own(way.to, dialled.ip().to_canonical());
    ensure!(local.ip().to_canonical() == expected, "getsockname of the server is not its own address");
    ensure!(local.port() == target, "getsockname of the server has another port");

    // An IPv4 client of a listener for both families is a mapped address to it, and plain to a listener for IPv4 alone.
    let six = target == DUAL;
    ensure!(
        accepted.is_ipv6() == six && local.is_ipv6() == six,
        "the server's addresses are of the wrong family"
    );
    Ok(())
}

/// The pod's own address, in the form of another one.
fn own(pod: &Pod, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => pod.v4().into(),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => mapped(pod.v4().into()),
        IpAddr::V6(_) => pod.v6().into(),
    }
}
