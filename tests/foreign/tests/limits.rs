//! Promise: whatever number of streams a foreign server takes on a connection, and whenever it leaves, what applications
//! have open stays open and what they open finds a connection that takes it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use foreign::app::{dial, echo, ends, send_back};
use foreign::counters::sum;
use foreign::{Cast, Manner};
use futures_util::FutureExt;
use lab::Lab;
use lab::row::Table;

const TEST: &str = "a_foreign_servers_limits_are_kept";
/// Connections that an agent makes to one peer at the most.
const CONNECTIONS: usize = 64;

#[test]
fn a_foreign_servers_limits_are_kept() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(limits_are_kept);
}

fn limits_are_kept(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    // Envoy's waypoints take 100.
    for (limit, conversations) in [(1, 20), (10, 64), (100, 150)] {
        for late in [None, Some(Duration::from_millis(300))] {
            let when = if late.is_some() { ", said late" } else { "" };
            table.row(
                &format!("{conversations} at once to a server that takes {limit} on a connection{when}"),
                || {
                    let manner =
                        Manner { max_streams: Some(limit), late_settings: late, ..Manner::default() };
                    at_once(&cast, manner, limit as usize, conversations)
                },
            );
        }
    }
    table.row("more than a server takes on all connections is refused at once, and counted", || {
        too_many(lab, &cast)
    });
    table.row("a server leaves while tunnels run, again and again", || leaves(&cast));
    table.finish();
    Ok(())
}

fn any(cast: &Cast) -> SocketAddr {
    SocketAddr::new(cast.foreign.v4().into(), 7777)
}

/// Opens so many from threads of their own, and has each say something before the next step.
fn open(cast: &Cast, count: usize) -> Result<Vec<TcpStream>> {
    let speaking = || {
        let app = dial(&cast.client, any(cast))?;
        echo(&app, b"hello")?;
        anyhow::Ok(app)
    };
    let mut open = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(speaking)).collect();
        for thread in threads {
            open.push(thread.join().expect("a thread of the test")?);
        }
        Ok(open)
    })
}

fn at_once(cast: &Cast, manner: Manner, limit: usize, conversations: usize) -> Result<String> {
    let server = cast.host(manner, |arrival| send_back(arrival).boxed())?;
    let open = open(cast, conversations)?;
    for app in &open {
        echo(app, b"all at once")?;
    }
    let most = server.most_streams();
    ensure!(most.iter().all(|most| *most <= limit), "streams at once on each connection: {most:?}");
    ensure!(server.arrivals().len() == conversations, "{} CONNECTs", server.arrivals().len());
    for app in &open {
        app.shutdown(Shutdown::Write)?;
        ends(app, "eof")?;
    }
    let connections = server.connections();
    server.stop()?;
    Ok(format!("{connections} connections"))
}

fn too_many(lab: &Lab, cast: &Cast) -> Result<String> {
    let manner = Manner { max_streams: Some(1), ..Manner::default() };
    let server = cast.host(manner, |arrival| send_back(arrival).boxed())?;
    let mut held = open(cast, CONNECTIONS)?;
    let exhausted = || sum(lab.agent("a"), "weft_connections_failed_total", &[("reason", "exhausted")]);
    let (before, start) = (exhausted()?, Instant::now());
    for _ in 0..5 {
        ends(&dial(&cast.client, any(cast))?, "ECONNRESET")?;
    }
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    ensure!(exhausted()? == before + 5.0, "{} counted", exhausted()? - before);
    // One goes, one may come.
    let gone = held.pop().expect("there are 64");
    gone.shutdown(Shutdown::Write)?;
    ends(&gone, "eof")?;
    drop(gone);
    lab::eventually(Duration::from_secs(5), || {
        dial(&cast.client, any(cast))
            .and_then(|app| echo(&app, b"room?"))
            .map_err(|error| format!("{error:#}"))
    })?;
    for app in &held {
        echo(app, b"still here")?;
    }
    server.stop()?;
    Ok(format!("{CONNECTIONS} run, 5 more refused"))
}

/// Conversations begin, go on and end, while the server says GOAWAY on all connections again and again. A CONNECT that
/// crosses a GOAWAY on its way is another matter (`docs/hbone.md`): here the agent has it, because what runs on the same
/// connection has been answered behind it.
fn leaves(cast: &Cast) -> Result<String> {
    const TIMES: usize = 10;
    let server = cast.host(Manner::default(), |arrival| send_back(arrival).boxed())?;
    let mut held = vec![open(cast, 1)?.remove(0)];
    let mut short = 0;
    for round in 0..TIMES {
        server.leave()?;
        for app in &held {
            echo(app, b"you are leaving")?;
        }
        let before = server.connections();
        let fresh = open(cast, 4)?;
        ensure!(server.connections() > before, "nobody made a new connection");
        short += fresh.len();
        for app in fresh.iter().chain(&held) {
            echo(app, format!("round {round}").as_bytes())?;
        }
        held.push(open(cast, 1)?.remove(0));
    }
    for app in &held {
        echo(app, b"and at the end")?;
        app.shutdown(Shutdown::Write)?;
        ends(app, "eof")?;
    }
    let connections = server.connections();
    ensure!(connections == TIMES + 1, "{connections} connections");
    server.stop()?;
    Ok(format!("{} long, {short} short, {connections} connections, 0 failures", held.len()))
}
