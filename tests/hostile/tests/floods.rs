//! Promise: a member of the mesh that floods its connection is told to calm down and cut off, costs the agent little memory,
//! and its neighbours lose no connection.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostile::http2::{self, END_HEADERS, code, frame, kind};
use hostile::session::{Fate, Session};
use hostile::stage::{PATIENCE, Stage};
use hostile::watch::{Counter, Holding, Log};
use lab::Lab;
use lab::row::Table;

const TEST: &str = "a_flood_ends_the_connection_it_comes_on";
/// What a flood may cost, in MiB of the agent's memory.
const BOUND: u64 = 64;
/// How long a flood may go on.
const SOON: Duration = Duration::from_secs(15);
/// Where the server sends without end.
const SOURCE: u16 = 7001;
/// Where the server takes connections and reads nothing.
const DEAF: u16 = 7002;

#[test]
fn a_flood_ends_the_connection_it_comes_on() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(a_flood_ends);
}

fn a_flood_ends(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    let source = ["weft-lab-peer", "source", "--listen", &SOURCE.to_string(), "--bytes", "100000000000"];
    let _source = stage.server.spawn(source)?;
    stage.server.await_listening(SOURCE, PATIENCE)?;
    let _deaf = stage.server.listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DEAF))??;
    let neighbours = stage.neighbours()?;
    let mut table = Table::new(TEST);
    headers(&mut table, &stage);
    control_frames(&mut table, &stage);
    streams(&mut table, &stage);
    windows(&mut table, &stage);
    table.row("the log names each reason and is not flooded itself", || {
        let log = Log::of(lab, "b");
        let lines = log.lines_with("reason=\"too_many_streams\"")?;
        // Five per second, and this test takes no minute.
        ensure!((1..300).contains(&lines), "{lines} lines of one reason");
        // The rest is told when somebody looks at the counters.
        lab::eventually(PATIENCE, || {
            let looked = stage.agent().metrics().and_then(|_| log.lines_with("untold="));
            if looked.as_ref().is_ok_and(|lines| *lines > 0) { Ok(()) } else { Err(format!("{looked:?}")) }
        })?;
        Ok(format!("{lines} lines of too_many_streams"))
    });
    table.row("neighbours", || neighbours.none_failed());
    table.finish();
    Ok(())
}

/// A flood that must come to its end: the code, in time, the reason counted and named, the memory bounded.
fn ends(
    stage: &Stage<'_>,
    reason: &str,
    codes: &[u32],
    flood: impl FnOnce(&mut Session) -> Result<u32>,
) -> Result<String> {
    let (before, counter) = (Holding::of(stage.agent())?, Counter::failed(stage.agent(), "inbound", reason)?);
    let mut session = stage.enter()?;
    let start = Instant::now();
    let sent = flood(&mut session)?;
    let fate = session.fate(SOON);
    ensure!(codes.iter().any(|code| fate == Fate::GoAway(*code)), "{fate:?} after {sent}");
    let end = session.end(SOON).context("the connection stays open")?;
    let took = start.elapsed();
    ensure!(took < SOON, "it took {took:?}");
    counter.await_moved(1)?;
    Log::of(stage.lab, "b").await_line(&[&format!("reason=\"{reason}\"")])?;
    let grown = before.grown(stage.agent(), BOUND)?;
    Ok(format!("{fate:?} after {sent}, {end}, {} ms, {grown} KiB", took.as_millis()))
}

fn headers(table: &mut Table, stage: &Stage<'_>) {
    let calm = [code::ENHANCE_YOUR_CALM];
    let head = http2::block(&[(":method", "CONNECT"), (":authority", &stage.echo().to_string())]);
    let more = http2::block(&[("x-more", &"y".repeat(1000))]);
    for (name, piece) in [("CONTINUATION without end", more), ("CONTINUATION of nothing, 100,000", vec![])] {
        table.row(name, || {
            ends(stage, "flood", &calm, |session| {
                session.push(&frame(kind::HEADERS, 0, 1, &head))?;
                session.flood(100_000, |_| frame(kind::CONTINUATION, 0, 1, &piece))
            })
        });
    }
    table.row("headers of 1 MB in frames of 60 KB", || {
        let huge = http2::block(&[("x-huge", &"z".repeat(1 << 20))]);
        ends(stage, "flood", &[code::ENHANCE_YOUR_CALM], |session| {
            session.push(&frame(kind::HEADERS, 0, 1, &head))?;
            for piece in huge.chunks(60_000) {
                session.push(&frame(kind::CONTINUATION, 0, 1, piece))?;
            }
            session.push(&frame(kind::CONTINUATION, END_HEADERS, 1, &[]))?;
            Ok(1)
        })
    });
    table.row("a bomb: one header of 3 KB, named 10,000 times", || {
        // A literal that goes into the table, then its index again and again (RFC 7541, section 6).
        let mut bomb = vec![0x40];
        bomb.extend_from_slice(&http2::block(&[("x-bomb", &"b".repeat(3000))])[1..]);
        bomb.extend(std::iter::repeat_n(0xbe, 10_000));
        let counter = Counter::failed(stage.agent(), "inbound", "headers_too_large")?;
        let flood = Counter::failed(stage.agent(), "inbound", "flood")?;
        let before = Holding::of(stage.agent())?;
        let mut session = stage.enter()?;
        session.push(&frame(kind::HEADERS, END_HEADERS, 1, &[&head[..], &bomb].concat()))?;
        let fate = session.fate_of(1, PATIENCE);
        ensure!(matches!(fate, Fate::Status(431) | Fate::GoAway(code::ENHANCE_YOUR_CALM)), "{fate:?}");
        lab::eventually(PATIENCE, || match (counter.moved(), flood.moved()) {
            (Ok(0), Ok(0)) => Err("nothing is counted".to_owned()),
            other => Ok(other.0.unwrap_or_default()),
        })?;
        Ok(format!("{fate:?}, {} KiB", before.grown(stage.agent(), BOUND)?))
    });
}

fn control_frames(table: &mut Table, stage: &Stage<'_>) {
    let calm = [code::ENHANCE_YOUR_CALM];
    let settings = http2::setting(3, 100);
    for (name, bytes) in [
        ("PING, 200,000", frame(kind::PING, 0, 0, &[1; 8])),
        ("SETTINGS, 200,000", settings),
        ("PRIORITY, 200,000", frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("frames of an unknown kind, 200,000", frame(0xbe, 0, 0, &[0; 8])),
        ("WINDOW_UPDATE of one byte, 200,000", http2::update(0, 1)),
    ] {
        table.row(name, || ends(stage, "flood", &calm, |session| session.flood(200_000, |_| bytes.clone())));
    }
    table.row("DATA of nothing, 200,000", || {
        ends(stage, "flood", &calm, |session| {
            session.push(&http2::connect(1, &stage.echo().to_string()))?;
            session.flood(200_000, |_| frame(kind::DATA, 0, 1, &[]))
        })
    });
}

fn streams(table: &mut Table, stage: &Stage<'_>) {
    let echo = stage.echo().to_string();
    table.row("rapid reset, 100,000", || {
        ends(stage, "flood", &[code::ENHANCE_YOUR_CALM], |session| {
            session.flood(100_000, |n| {
                let stream = 2 * n + 1;
                [http2::connect(stream, &echo), http2::reset(stream, code::CANCEL)].concat()
            })
        })
    });
    table.row("3,000 requests at once", || {
        let before = Holding::of(stage.agent())?;
        let counter = Counter::failed(stage.agent(), "inbound", "too_many_streams")?;
        let mut session = stage.enter()?;
        session.flood(3000, |n| http2::connect(2 * n + 1, &echo))?;
        let mut good = 0;
        while good < 1000 {
            let frame = session.frame(PATIENCE).with_context(|| format!("only {good} are answered"))?;
            ensure!(frame.kind != kind::GOAWAY, "{frame:?}");
            good += u32::from(frame.kind == kind::HEADERS);
        }
        let counted = counter.await_moved(2000)?;
        let grown = before.grown(stage.agent(), BOUND)?;
        Ok(format!("{good} served, {counted} refused, {grown} KiB"))
    });
    table.row("requests beyond the bound without end", || {
        ends(stage, "flood", &[code::ENHANCE_YOUR_CALM], |session| {
            session.flood(100_000, |n| http2::connect(2 * n + 1, &echo))
        })
    });
}

fn windows(table: &mut Table, stage: &Stage<'_>) {
    let echo = stage.echo().to_string();
    let largest = u32::MAX >> 1;
    for (name, bytes, wanted) in [
        ("WINDOW_UPDATE of 0, connection", http2::update(0, 0), Fate::GoAway(code::PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of 0, stream", http2::update(1, 0), Fate::Reset(code::PROTOCOL_ERROR)),
        (
            "a window of more than 2 GiB, connection",
            http2::update(0, largest),
            Fate::GoAway(code::FLOW_CONTROL_ERROR),
        ),
        (
            "a window of more than 2 GiB, stream",
            http2::update(1, largest),
            Fate::Reset(code::FLOW_CONTROL_ERROR),
        ),
    ] {
        table.row(name, || {
            let mut session = stage.enter()?;
            session.push(&http2::connect(1, &echo))?;
            let answer = session.fate_of(1, PATIENCE);
            ensure!(answer == Fate::Status(200), "{answer:?}");
            session.push(&[bytes.clone(), bytes.clone()].concat())?;
            let fate = session.fate_of(1, PATIENCE);
            // An implementation may take a stream's fault for the connection's (RFC 9113, section 5.4.1).
            let harder = match wanted {
                Fate::Reset(code) => Fate::GoAway(code),
                ref other => other.clone(),
            };
            ensure!(fate == wanted || fate == harder, "{fate:?}");
            Ok(format!("{fate:?}"))
        });
    }
    table.row("100 tunnels whose window is never opened", || never_grants(stage));
    table.row("DATA beyond the window", || {
        let before = Holding::of(stage.agent())?;
        let mut session = stage.enter()?;
        let deaf = SocketAddr::new(IpAddr::V4(stage.server.v4()), DEAF);
        session.push(&http2::connect(1, &deaf.to_string()))?;
        let answer = session.fate_of(1, PATIENCE);
        ensure!(answer == Fate::Status(200), "{answer:?}");
        // What the server's socket takes is granted anew; the rest is too much.
        session.flood(8000, |_| frame(kind::DATA, 0, 1, &[0; 16_000]))?;
        let fate = session.fate_of(1, PATIENCE);
        let refused = [Fate::Reset(code::FLOW_CONTROL_ERROR), Fate::GoAway(code::FLOW_CONTROL_ERROR)];
        ensure!(refused.contains(&fate), "{fate:?}");
        Ok(format!("{fate:?}, {} KiB", before.grown(stage.agent(), BOUND)?))
    });
}

/// The server sends as much as it can; nothing of it may be taken, and little of it may lie in the agent.
fn never_grants(stage: &Stage<'_>) -> Result<String> {
    let before = Holding::of(stage.agent())?;
    let mut session = stage.enter_with(&http2::setting(4, 0))?;
    let source = SocketAddr::new(IpAddr::V4(stage.server.v4()), SOURCE);
    session.flood(100, |n| http2::connect(2 * n + 1, &source.to_string()))?;
    let answer = session.fate_of(199, PATIENCE);
    ensure!(answer == Fate::Status(200), "{answer:?}");
    // Opened one at a time, the windows show that each of them is served for as long as it takes.
    for stream in [1, 99, 199] {
        session.push(&http2::update(stream, 1000))?;
        let mut got = 0;
        while got < 1000 {
            let frame = session.frame(PATIENCE).context("nothing comes through an open window")?;
            if frame.kind == kind::DATA {
                ensure!(frame.stream == stream, "a frame of {} through a closed window", frame.stream);
                got += frame.payload.len();
            }
        }
        ensure!(got == 1000, "{got} bytes through a window of 1000");
    }
    Ok(format!("{} KiB", before.grown(stage.agent(), BOUND)?))
}
