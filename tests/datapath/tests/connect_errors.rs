//! Promise: what the node knows is an error of connect(2), and so is everything about a connection that goes without the
//! agent; what only somebody far away tells an agent is a RST before the first byte. Never a clean end.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use datapath::cast::Cast;
use datapath::report::{connect_once, try_connect};
use lab::row::Table;
use lab::{Lab, Pod, Service, programs};

const TEST: &str = "a_failed_connection_never_ends_cleanly";
/// Nobody listens here.
const CLOSED: u16 = 9999;
const ECHO: u16 = 9002;
/// On the wire between the nodes, where nobody answers for it.
const NOBODY: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 200);

#[test]
fn a_failed_connection_never_ends_cleanly() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(never_cleanly);
}

fn never_cleanly(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let unready = lab
        .pod("shop/unready")
        .node("b")
        .service_account("unready")
        .label("app", "unready")
        .unready()
        .start()?;
    let near = lab.pod("shop/near").node("a").service_account("near").label("app", "near").start()?;
    lab.await_captured(&unready)?;
    lab.await_captured(&near)?;
    let _echo = programs::peer(&cast.server, "echo", ECHO, &[])?;
    let _unready_echo = programs::peer(&unready, "echo", ECHO, &[])?;

    let service = cast.service(lab, "server", &[(80, ECHO), (81, CLOSED)])?;
    let nobody = lab.service("shop/nobody").port(80, ECHO).select("app", "nobody").create()?;
    nobody.await_endpoints(lab, 0)?;
    let not_yet = lab.service("shop/not-yet").port(80, ECHO).select("app", "unready").create()?;
    let outside = datapath::cast::service(lab, &cast.store, "store", &[(81, CLOSED)])?;

    let mut table = Table::new(TEST);
    let client = &cast.client;
    // Nobody says anything to these for a while.
    let unanswered = try_connect(client, at(NOBODY, CLOSED), None)?;
    known_here(&mut table, client, &service, &nobody)?;
    table.row("service whose only pod is not ready: connect fails", || {
        // The agent may hear of the Service before it hears that its pod is not ready; not the other way round.
        lab::eventually(Duration::from_secs(10), || {
            let once = connect_once(client, SocketAddr::new(not_yet.v4().into(), 80), None);
            once.and_then(|once| once.refused()).map_err(|error| format!("{error:#}"))
        })
    });
    told_from_afar(&mut table, lab, &cast, &near, &[service, outside])?;
    table.row("an address that nobody has: connect fails", || {
        let once = unanswered.outcome()?;
        ensure!(once.errno.as_deref() == Some("EHOSTUNREACH"), "{once:?}");
        Ok(format!("EHOSTUNREACH after {} us", once.connect_us))
    });
    table.finish();
    Ok(())
}

fn known_here(table: &mut Table, client: &Pod, service: &Service, nobody: &Service) -> Result<()> {
    for (family, number) in [("IPv4", 0), ("IPv6", 1), ("mapped", 2)] {
        let refused = |service: &Service, port: u16, send: Option<&str>| {
            connect_once(client, SocketAddr::new(address(service, number), port), send)?.refused()
        };
        table
            .row(&format!("service without endpoint, {family}: connect fails"), || refused(nobody, 80, None));
        table.row(&format!("unknown port of a service, {family}: connect fails"), || {
            refused(service, 82, None)
        });
        table.row(&format!("a port that works beside it, {family}"), || {
            let once = connect_once(client, SocketAddr::new(address(service, number), 80), Some("x"))?;
            ensure!(once.errno.is_none() && once.read == "x", "{once:?}");
            Ok(format!("connected after {} us", once.connect_us))
        });
    }
    Ok(())
}

fn address(service: &Service, number: usize) -> IpAddr {
    match number {
        0 => service.v4().into(),
        1 => service.v6().into(),
        _ => service.v4().to_ipv6_mapped().into(),
    }
}

fn told_from_afar(
    table: &mut Table,
    lab: &Lab,
    cast: &Cast,
    near: &Pod,
    services: &[Service; 2],
) -> Result<()> {
    let [service, outside] = services;
    let node = lab.node("b");
    let (client, stranger) = (&*cast.client, &*cast.stranger);
    for (name, from, to) in [
        ("nobody listens at a captured pod, IPv4", client, at(cast.server.v4(), CLOSED)),
        ("nobody listens at a captured pod, IPv6", client, at(cast.server.v6(), CLOSED)),
        ("nobody listens at a captured pod, mapped", client, at(cast.server.v4().to_ipv6_mapped(), CLOSED)),
        ("nobody listens behind a service, IPv4", client, at(service.v4(), 81)),
        ("nobody listens behind a service, IPv6", client, at(service.v6(), 81)),
        ("nobody listens at a captured pod, from outside the mesh", stranger, at(cast.server.v4(), CLOSED)),
        ("an agent's port of a captured pod", client, at(cast.server.v4(), 15008)),
    ] {
        table.row(&format!("{name}: RST"), || connect_once(from, to, None)?.reset());
        table.row(&format!("{name}, the client speaks first: RST"), || {
            connect_once(from, to, Some("is anybody there?"))?.reset()
        });
    }
    for (name, to) in [
        ("nobody listens at a captured pod of the node", at(near.v4(), CLOSED)),
        ("nobody listens at a pod outside the mesh", at(cast.store.v4(), CLOSED)),
        ("nobody listens behind a service outside the mesh", at(outside.v6(), 81)),
        ("nobody listens at an address that is no pod's", at(node.v4(), CLOSED)),
    ] {
        table.row(&format!("{name}: connect fails"), || connect_once(client, to, None)?.refused());
    }
    Ok(())
}

fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}
