//! Promise: who keeps the mesh waiting is not waited for for ever, and not by many at once: silent connections, silent
//! clients, clients that read nothing, servers that answer nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostile::certs::Leaf;
use hostile::http2::{self, frame, kind};
use hostile::session::{Fate, Hello, Session};
use hostile::stage::{HBONE, PATIENCE, Stage, identity};
use hostile::watch::{Counter, Holding, Log};
use lab::Lab;
use lab::row::Table;

/// A handshake has this long, in all.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection that asks for nothing: 20 s, and a look every 8 s.
const UNUSED: Duration = Duration::from_secs(28);
/// A client that does not read is silent for two looks; then its tunnels end.
const SILENT: Duration = Duration::from_secs(24);
/// What a machine with other things to do may add.
const SLACK: Duration = Duration::from_secs(8);
/// Handshakes in progress at one pod.
const AT_ONCE: u64 = 1024;
/// Connections of a crowd.
const CROWD: usize = 5000;

#[test]
fn silent_connections_cost_little_and_end() {
    const TEST: &str = "silent_connections_cost_little_and_end";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let stage = Stage::set(lab)?;
        let neighbours = stage.neighbours()?;
        let mut table = Table::new(TEST);
        idle_handshakes(&mut table, &stage);
        table.row("half a handshake", || half_a_handshake(&stage));
        table.row("neighbours", || neighbours.none_failed());
        table.finish();
        Ok(())
    });
}

/// TCP connections that say nothing.
fn idle_handshakes(table: &mut Table, stage: &Stage<'_>) {
    let mut held = Vec::new();
    table.row("5,000 silent connections: the oldest make room", || {
        let full = Counter::handshakes(stage.agent(), "server", "handshakes_full")?;
        let late = Counter::handshakes(stage.agent(), "server", "handshake_timeout")?;
        let before = Holding::of(stage.agent())?;
        let begun = Instant::now();
        held = stage.dial_many(CROWD)?;
        let took = begun.elapsed();
        // On a slow machine the time of the first is up before the last have come.
        let room = lab::eventually(PATIENCE, || match (full.moved(), late.moved()) {
            (Ok(full), Ok(late)) if full + late >= CROWD as u64 - AT_ONCE => Ok(full),
            other => Err(format!("{other:?} have ended")),
        })?;
        let now = Holding::of(stage.agent())?;
        let more = now.descriptors.saturating_sub(before.descriptors);
        ensure!(more <= AT_ONCE + 200, "{more} descriptors more than before");
        // For each of those that may wait, as below.
        let grown = before.grown(stage.agent(), 40 * AT_ONCE / 1024)?;
        Ok(format!("dialled in {} ms, {room} made room, {more} descriptors, {grown} KiB", took.as_millis()))
    });
    table.row("newcomers get a place among them", || {
        stage.enter()?;
        Ok(String::new())
    });
    table.row("they end when their time is up", || {
        let start = Instant::now();
        for tcp in &held {
            let left = (HANDSHAKE + SLACK).saturating_sub(start.elapsed()).max(Duration::from_millis(1));
            tcp.set_read_timeout(Some(left))?;
            let end = (&*tcp).read(&mut [0; 16]);
            let over = match &end {
                Ok(0) => true,
                Ok(_) => false,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            };
            ensure!(over, "{end:?} after {:?}", start.elapsed());
        }
        Ok(format!("all {} within {} ms", held.len(), start.elapsed().as_millis()))
    });
    held.clear();
    table.row("the log has some lines of 5,000", || {
        let log = Log::of(stage.lab, "b");
        let lines = log.lines_with("handshakes_full")?;
        ensure!((1..200).contains(&lines), "{lines} lines");
        Ok(format!("{lines} lines"))
    });
}

/// A ClientHello, and nothing more; also one that is never finished.
fn half_a_handshake(stage: &Stage<'_>) -> Result<String> {
    let counter = Counter::handshakes(stage.agent(), "server", "handshake_timeout")?;
    let start = Instant::now();
    let mut whole = stage.visit(&Hello::with(&stage.own))?;
    // So that it gets no further than its ClientHello.
    whole.stop_reading();
    whole.send_all(Duration::from_secs(1));
    let mut part = stage.dial()?;
    part.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])?;
    part.set_read_timeout(Some(HANDSHAKE + SLACK))?;
    let end = part.read(&mut [0; 16]);
    ensure!(end.as_ref().is_ok_and(|count| *count == 0) || end.is_err(), "{end:?}");
    let took = start.elapsed();
    ensure!(took >= HANDSHAKE / 2 && took < HANDSHAKE + SLACK, "it took {took:?}");
    counter.await_moved(2)?;
    Log::of(stage.lab, "b").await_line(&["reason=\"handshake_timeout\""])?;
    Ok(format!("{} ms", took.as_millis()))
}

#[test]
fn clients_that_do_nothing_are_let_go() {
    const TEST: &str = "clients_that_do_nothing_are_let_go";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let stage = Stage::set(lab)?;
        let source = ["weft-lab-peer", "source", "--listen", "7001", "--bytes", "100000000000"];
        let _source = stage.server.spawn(source)?;
        stage.server.await_listening(7001, PATIENCE)?;
        let neighbours = stage.neighbours()?;
        let mut table = Table::new(TEST);
        table.row("a client that reads nothing", || reads_nothing(&stage));
        idle_connections(&mut table, &stage);
        table.row("neighbours", || neighbours.none_failed());
        table.finish();
        Ok(())
    });
}

/// Windows as wide as they can be, and a socket that is never read: what lies in the agent is bounded all the same.
fn reads_nothing(stage: &Stage<'_>) -> Result<String> {
    let before = Holding::of(stage.agent())?;
    let counter = Counter::closed(stage.agent(), "inbound", "tunnel_broken")?;
    let wide = [http2::setting(4, u32::MAX >> 1), http2::update(0, (u32::MAX >> 1) - 65_535)].concat();
    let mut session = stage.enter_with(&wide)?;
    session.stop_reading();
    let start = Instant::now();
    let source = SocketAddr::new(IpAddr::V4(stage.server.v4()), 7001);
    session.flood(100, |n| http2::connect(2 * n + 1, &source.to_string()))?;
    let mut most = 0;
    lab::eventually(SILENT + SLACK, || {
        most = most
            .max(before.grown(stage.agent(), 64).map_err(|error| format!("{error:#}")).unwrap_or(u64::MAX));
        match counter.moved() {
            Ok(100..) => Ok(()),
            other => Err(format!("{other:?} of 100 tunnels have ended")),
        }
    })?;
    ensure!(most <= 64 << 10, "the agent's memory has grown by more than 64 MiB");
    Ok(format!("100 tunnels ended after {} ms, at most {most} KiB", start.elapsed().as_millis()))
}

fn idle_connections(table: &mut Table, stage: &Stage<'_>) {
    let mut crowd: Vec<Session> = Vec::new();
    let mut start = Instant::now();
    let mut before = None;
    table.row("5,000 connections that ask for nothing cost little", || {
        let at_first = Holding::of(stage.agent())?;
        before = Some(at_first);
        let config = Hello::with(&stage.own).config()?;
        let idle = Counter::failed(stage.agent(), "inbound", "idle")?;
        start = Instant::now();
        let settings = frame(kind::SETTINGS, 0, 0, &[]);
        while crowd.len() < CROWD {
            for tcp in stage.dial_many(500)? {
                let mut session = Session::client(tcp, config.clone())?;
                session.shake_hands(PATIENCE)?;
                session.begin(&settings, PATIENCE)?;
                crowd.push(session);
            }
        }
        let took = start.elapsed();
        // On a slow machine the first have gone before the last have come.
        let held = CROWD as u64 - idle.moved()?.min(CROWD as u64 - 1);
        let grown = at_first.grown(stage.agent(), 256)?;
        let each = grown / held;
        ensure!(each <= 40, "{each} KiB each, for {held} connections");
        start = Instant::now();
        Ok(format!("{held} are open after {} ms, {each} KiB each", took.as_millis()))
    });
    table.row("they end when their time is up, also those that answer PING", || {
        // The last few are alive and idle, all the others are dead to the world.
        let alive = crowd.len().saturating_sub(50);
        let mut open = Vec::new();
        for deadline in [UNUSED + SLACK, UNUSED + 2 * SLACK] {
            while start.elapsed() < deadline {
                for session in &mut crowd[alive..] {
                    session.tend()?;
                }
                if crowd[alive..].iter().all(Session::is_over) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let took = start.elapsed();
        for session in &mut crowd {
            if session.end(Duration::from_millis(20)).is_none() {
                open.push(session);
            }
        }
        ensure!(open.is_empty(), "{} are open after {took:?}", open.len());
        let first = before.context("a start")?;
        // Both sides have ended; the agent's own descriptor goes when its turn comes.
        lab::eventually(PATIENCE, || {
            let holding = Holding::of(stage.agent()).map_err(|error| format!("{error:#}"))?;
            match holding.descriptors.saturating_sub(first.descriptors) {
                more if more < 200 => Ok(()),
                more => Err(format!("{more} descriptors are left")),
            }
        })?;
        Ok(format!("all after {} ms", took.as_millis()))
    });
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    const TEST: &str = "a_server_that_never_answers_is_given_up";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let stage = Stage::set(lab)?;
        let mut table = Table::new(TEST);
        table.row("a CONNECT without an answer", || never_answers(&stage));
        table.finish();
        Ok(())
    });
}

/// It takes part in everything but the one answer.
fn never_answers(stage: &Stage<'_>) -> Result<String> {
    let mute = stage.foreign("mute")?;
    let shown = stage.ca.sign(&Leaf::of(&[&identity("yard", "mute")])?)?;
    let listener = mute.listen(SocketAddr::new(IpAddr::V4(mute.v4()), HBONE))??;
    let config = Hello::with(&shown).server_config()?;
    let counter = Counter::failed(stage.lab.agent("a"), "outbound", "no_answer")?;
    let start = Instant::now();
    let mut app: TcpStream =
        stage.client.connect(SocketAddr::new(mute.v4().into(), 80), Duration::from_secs(5))??;
    app.write_all(b"is anybody there?")?;
    let mut session = Session::server(hostile::stage::accept(&listener)?, config)?;
    session.shake_hands(PATIENCE)?;
    session.push(&frame(kind::SETTINGS, 0, 0, &[]))?;
    ensure!(!session.preface_and_request(PATIENCE)?.is_empty(), "no CONNECT");
    app.set_nonblocking(true)?;
    let end = lab::eventually(Duration::from_secs(60), || {
        session.tend().map_err(|error| format!("{error:#}"))?;
        match app.read(&mut [0; 16]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err("nothing".to_owned()),
            other => Ok(other.map_err(|error| error.kind())),
        }
    })?;
    let took = start.elapsed();
    ensure!(end == Err(std::io::ErrorKind::ConnectionReset), "{end:?}");
    ensure!((30..50).contains(&took.as_secs()), "after {took:?}");
    counter.await_moved(1)?;
    let fate = session.fate_of(1, Duration::from_millis(100));
    ensure!(fate != Fate::Nothing || !session.is_over(), "the other tunnels lose their connection");
    Ok(format!("RST after {} ms", took.as_millis()))
}
