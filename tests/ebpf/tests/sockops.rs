//! `mesh_sockops`: notes go from one end of a local connection to the other, and none stays that should not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ebpf_tests::captured::delivery_source;
use ebpf_tests::door::{Visitor, local};
use ebpf_tests::family::plain;
use ebpf_tests::stage::{self, Stage};
use ebpf_tests::{Captured, Door, Family};
use lab::row::Table;
use mesh_common::{DeliveryKey, Endpoint16, ListenerKey, SockNote, maps};

fn elsewhere(family: Family, port: u16) -> SocketAddr {
    family.either([10, 99, 0, 1].into(), "fd00:99::1".parse().unwrap(), port)
}

fn client_of(family: Family, port: u16) -> SocketAddr {
    family.either([10, 77, 1, 2].into(), "fd00:77::2".parse().unwrap(), port)
}

/// How many deliveries have a note that was not handed over.
fn deliveries(stage: &Stage<'_>) -> Result<usize> {
    Ok(stage.hooks.keys::<DeliveryKey, Endpoint16>(maps::DELIVERY)?.len())
}

fn no_delivery_is_left(stage: &Stage<'_>) -> Result<String> {
    // A closing socket's callback may come a moment after close(2).
    lab::eventually(Duration::from_secs(2), || match deliveries(stage) {
        Ok(0) => Ok(String::new()),
        other => Err(format!("notes of deliveries: {other:?}")),
    })
}

#[test]
fn the_agent_finds_what_a_client_dialled() {
    stage::run("the_agent_finds_what_a_client_dialled", |stage, table| {
        let web = stage.captured()?;
        for family in Family::ALL {
            let name = family.name();
            table.row(&format!("{name}: by the accepted socket, and in the hash"), || {
                web.dials(elsewhere(family, 443)).map(|_| String::new())
            });
            table.row(&format!("{name}: of a client that has written and closed before"), || {
                gone_before_accept(&web, family)
            });
            table.row(&format!("{name}: of 300 clients at once, each its own"), || many(stage, &web, family));
            table.row(&format!("{name}: of a source port that is used again"), || {
                let source = family.of(&web.pod, 21_000 + family as u16);
                for port in [443, 444] {
                    let socket = web.hand.tcp(family)?;
                    // A RST at the end, so that the port is free at once.
                    socket.set_linger(Some(Duration::ZERO))?;
                    socket.bind(&source.into())?;
                    web.captures(socket, elsewhere(family, port), |socket| {
                        web.hand.connect(socket, elsewhere(family, port))
                    })?;
                }
                Ok(String::new())
            });
        }
        table.row("one source port towards several capture ports: each connection has its own note", || {
            same_source_port(&web)
        });
        table.row("none on a connection that was steered", || {
            let (_, outside) = stage.outsider()?;
            let _client = outside.dial(Family::V4.of(&web.pod, 80))??;
            let visitor = web.door(Family::V4, ListenerKey::PLAINTEXT).visitor()?;
            ensure!(stage.hooks.note(&visitor.socket)?.is_none(), "there is one");
            Ok(String::new())
        });
        Ok(())
    });
}

/// The way of many a one-shot client, with an agent that is busy meanwhile.
fn gone_before_accept(web: &Captured<'_>, family: Family) -> Result<String> {
    let mut client = web.hand.dial(elsewhere(family, 443))??;
    let from = local(&client)?;
    client.write_all(b"last words")?;
    drop(client);
    let Visitor { mut socket, peer, .. } = web.door(family, ListenerKey::OUTBOUND).visitor()?;
    ensure!(plain(peer) == from, "somebody else came: {peer}");
    web.expect_note(&socket, SockNote::ORIGINAL, elsewhere(family, 443))?;
    let mut words = String::new();
    socket.read_to_string(&mut words)?;
    ensure!(words == "last words", "read {words:?}");
    Ok(String::new())
}

fn many(stage: &Stage<'_>, web: &Captured<'_>, family: Family) -> Result<String> {
    const CLIENTS: u16 = 300;
    let mut clients = BTreeMap::new();
    stage.counts(&[("Redirected", CLIENTS.into())], || {
        for port in 1..=CLIENTS {
            let socket = web.hand.dial(elsewhere(family, port))??;
            // A source port may serve several at once, towards different capture ports.
            clients.insert((local(&socket)?, port), socket);
        }
        Ok(())
    })?;
    for _ in 0..CLIENTS {
        let visitor = web.door(family, ListenerKey::OUTBOUND).visitor()?;
        let port = web.note(&visitor.socket)?.port as u16;
        clients.remove(&(plain(visitor.peer), port)).context("somebody else came")?;
        web.expect_note(&visitor.socket, SockNote::ORIGINAL, elsewhere(family, port))?;
    }
    ensure!(clients.is_empty(), "{} did not come", clients.len());
    Ok(String::new())
}

/// With several capture ports, connections of one source port live side by side. All are dialled before one is accepted.
fn same_source_port(web: &Captured<'_>) -> Result<String> {
    const WANTED: usize = 8;
    let source = Family::V4.of(&web.pod, 21_100);
    let mut clients = Vec::new();
    for port in 1_u16..=200 {
        let socket = web.hand.tcp(Family::V4)?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&source.into())?;
        // By chance the same capture port again, where the kernel has no room for a second one.
        match web.hand.connect(&socket, elsewhere(Family::V4, port))? {
            Ok(()) => clients.push((socket, port)),
            Err(error) => ensure!(error.raw_os_error() == Some(libc::EADDRNOTAVAIL), "connect said {error}"),
        }
        if clients.len() == WANTED {
            break;
        }
    }
    ensure!(clients.len() == WANTED, "only {} at once", clients.len());
    let mut ports: Vec<u16> = clients.iter().map(|(_, port)| *port).collect();
    for _ in 0..WANTED {
        let visitor = web.door(Family::V4, ListenerKey::OUTBOUND).visitor()?;
        let note = web.note(&visitor.socket)?;
        let at = ports.iter().position(|port| u32::from(*port) == note.port);
        ports.remove(at.with_context(|| format!("nobody dialled port {} once", note.port))?);
    }
    Ok(format!("{WANTED} connections from {source}"))
}

#[test]
fn a_delivery_reaches_the_application_as_its_client() {
    stage::run("a_delivery_reaches_the_application_as_its_client", |stage, table| {
        let web = stage.captured()?;
        let dual = Door::dual(&web.hand, 8080)?;
        for family in Family::ON_THE_WIRE {
            let name = family.name();
            let to = family.of(&web.pod, 8080);
            table.row(&format!("{name}: handed over, and the note is gone"), || {
                let client = client_of(family, 40_000);
                let (agents, visitor) = delivered(stage, &web, &dual, to, client)?;
                let (mut near, mut far) = (&agents, &visitor.socket);
                near.write_all(b"request")?;
                let mut bytes = [0; 7];
                far.read_exact(&mut bytes)?;
                ensure!(&bytes == b"request", "garbled");
                no_delivery_is_left(stage)
            });
            table.row(&format!("{name}: accepted after the agent has written and closed"), || {
                let client = client_of(family, 40_001);
                let mut agents = web.delivery(to, client)?;
                stage.agent.connect(&agents, to)??;
                agents.write_all(b"x")?;
                drop(agents);
                let visitor = dual.visitor()?;
                ensure!(plain(visitor.peer) == client, "accept says {}", visitor.peer);
                no_delivery_is_left(stage)
            });
            table.row(&format!("{name}: 200 at once, each as its own client"), || {
                many_deliveries(stage, &web, &dual, family)
            });
            table.row(&format!("{name}: refused where nobody listens, and the note is gone"), || {
                let to = family.of(&web.pod, 8099);
                let socket = web.delivery(to, client_of(family, 40_002))?;
                stage.reset_on_loopback(family, &[], &socket, |socket| stage.agent.connect(socket, to))?;
                drop(socket);
                no_delivery_is_left(stage)
            });
            table.row(
                &format!("{name}: given up while the application does not answer, and the note is gone"),
                || given_up(stage, &web, family),
            );
            table.row(&format!("{name}: never to a listener on loopback alone"), || {
                let hidden = Door::open(&web.hand, family.loopback(8088))?;
                let to = family.of(&web.pod, 8088);
                let socket = web.delivery(to, client_of(family, 40_003))?;
                stage.reset_on_loopback(family, &[], &socket, |socket| stage.agent.connect(socket, to))?;
                drop(socket);
                hidden.nobody()?;
                no_delivery_is_left(stage)
            });
        }
        other_sources(stage, &web, &dual, table);
        Ok(())
    });
}

/// One delivery, seen by the application as its client's.
fn delivered(
    stage: &Stage<'_>,
    web: &Captured<'_>,
    door: &Door,
    to: SocketAddr,
    client: SocketAddr,
) -> Result<(socket2::Socket, Visitor)> {
    let agents = web.delivery(to, client)?;
    let visitor = stage.counts(&[("Delivered", 1)], || {
        stage.agent.connect(&agents, to)?.with_context(|| format!("deliver to {to}"))?;
        door.visitor()
    })?;
    ensure!(plain(visitor.peer) == client, "accept says {} and not {client}", visitor.peer);
    web.expect_note(&visitor.socket, SockNote::CLIENT, client)?;
    web.nobody()?;
    Ok((agents, visitor))
}

fn many_deliveries(stage: &Stage<'_>, web: &Captured<'_>, door: &Door, family: Family) -> Result<String> {
    const CLIENTS: u16 = 200;
    let to = family.of(&web.pod, 8080);
    let mut agents = BTreeMap::new();
    stage.counts(&[("Delivered", CLIENTS.into())], || {
        for number in 0..CLIENTS {
            let client = client_of(family, 50_000 + number);
            let mut socket = web.delivery(to, client)?;
            stage.agent.connect(&socket, to)??;
            socket.write_all(&client.port().to_be_bytes())?;
            agents.insert(client, socket);
        }
        Ok(())
    })?;
    for _ in 0..CLIENTS {
        let mut visitor = door.visitor()?;
        let client = plain(visitor.peer);
        let mut port = [0; 2];
        visitor.socket.read_exact(&mut port)?;
        ensure!(u16::from_be_bytes(port) == client.port(), "{client} is somebody else");
        ensure!(agents.remove(&client).is_some(), "{client} came twice");
    }
    no_delivery_is_left(stage)
}

/// The application's backlog is full, so the SYN stays without an answer; the agent gives up.
fn given_up(stage: &Stage<'_>, web: &Captured<'_>, family: Family) -> Result<String> {
    let to = family.of(&web.pod, 8077);
    let full = web.hand.tcp(family)?;
    full.bind(&to.into())?;
    full.listen(0)?;
    let mut waiting = Vec::new();
    let stuck = loop {
        let socket = web.delivery(to, client_of(family, 41_000 + waiting.len() as u16))?;
        socket.set_nonblocking(true)?;
        let begun = stage.agent.connect(&socket, to)?;
        ensure!(
            begun.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)),
            "it does not wait"
        );
        // On one machine the handshake is over before connect(2) is, if there is one.
        if deliveries(stage)? > 0 {
            break socket;
        }
        waiting.push(socket);
        ensure!(waiting.len() < 16, "the backlog never fills");
    };
    drop(stuck);
    no_delivery_is_left(stage)
}

/// The next sources, and where the agent delivers from in a pod without the route to its own ones.
fn other_sources(stage: &Stage<'_>, web: &Captured<'_>, door: &Door, table: &mut Table) {
    for (name, family, source) in [
        ("IPv4: from another loopback address", Family::V4, SocketAddr::from(([127, 0, 0, 2], 0))),
        ("IPv6: from another address of the agent's", Family::V6, delivery_source(32)),
        ("IPv6: from the pod's own address", Family::V6, Family::V6.of(&web.pod, 0)),
    ] {
        table.row(name, || {
            let (to, client) = (family.of(&web.pod, 8080), client_of(family, 40_010));
            let socket = web.delivery_from(source, to, client)?;
            stage.counts(&[("Delivered", 1)], || Ok(stage.agent.connect(&socket, to)??))?;
            let visitor = door.visitor()?;
            ensure!(plain(visitor.peer) == client, "accept says {}", visitor.peer);
            no_delivery_is_left(stage)
        });
    }
    table.row("IPv6: a port where nobody listens answers with a RST", || {
        let to = Family::V6.of(&web.pod, 8099);
        let socket = web.delivery(to, client_of(Family::V6, 40_011))?;
        let error = stage.agent.connect(&socket, to)?.err().context("it connected")?;
        ensure!(error.raw_os_error() == Some(libc::ECONNREFUSED), "connect said {error}");
        drop(socket);
        no_delivery_is_left(stage)
    });
}
