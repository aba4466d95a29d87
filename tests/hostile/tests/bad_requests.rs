//! Promise: a member of the mesh gets through a tunnel to the pod that it dialled and to nothing else, and whatever it asks
//! for wrongly is refused with the status or code that says so, counted and named.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hostile::http2::{self, END_HEADERS, code, kind};
use hostile::session::{Fate, Session};
use hostile::stage::{ECHO, PATIENCE, Stage};
use hostile::watch::{Counter, Log};
use lab::Lab;
use lab::row::Table;

const TEST: &str = "a_request_leads_to_the_pods_own_ports_or_nowhere";

#[test]
fn a_request_leads_to_the_pods_own_ports_or_nowhere() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(a_request_leads);
}

fn a_request_leads(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    // Another pod of the attacked agent's, and something that listens for those who should not reach it.
    let other = lab.pod("shop/other").node("b").service_account("other").start()?;
    lab.await_captured(&other)?;
    let _echo = other.spawn(["weft-lab-peer", "echo", "--listen", &ECHO.to_string()])?;
    other.await_listening(ECHO, PATIENCE)?;
    let neighbours = stage.neighbours()?;
    let mut table = Table::new(TEST);
    table.row("the pod's own port is reached", || {
        let mut session = stage.enter()?;
        let stream = session.stream();
        session.push(&http2::connect(stream, &stage.echo().to_string()))?;
        let fate = session.fate_of(stream, PATIENCE);
        ensure!(fate == Fate::Status(200), "{fate:?}");
        session.push(&http2::frame(kind::DATA, 0, stream, b"hello"))?;
        let heard = std::iter::from_fn(|| session.frame(PATIENCE)).find(|frame| frame.kind == kind::DATA);
        ensure!(heard.as_ref().is_some_and(|frame| frame.payload == b"hello"), "{heard:?}");
        Ok(String::new())
    });
    authorities(&mut table, &stage, &other);
    requests(&mut table, &stage);
    frames(&mut table, &stage);
    table.row("neighbours", || neighbours.none_failed());
    table.finish();
    Ok(())
}

/// What a request comes to, and what is counted for it.
fn refused(
    stage: &Stage<'_>,
    reason: &str,
    wanted: &[Fate],
    ask: impl FnOnce(&mut Session, u32) -> Result<()>,
) -> Result<String> {
    let counter = Counter::failed(stage.agent(), "inbound", reason)?;
    let mut session = stage.enter()?;
    let stream = session.stream();
    ask(&mut session, stream)?;
    let fate = session.fate_of(stream, PATIENCE);
    ensure!(wanted.contains(&fate), "{fate:?}");
    counter.await_moved(1)?;
    let line = Log::of(stage.lab, "b").await_line(&[&format!("reason=\"{reason}\"")])?;
    ensure!(line.contains("connection refused"), "{line}");
    if let Fate::GoAway(_) = fate {
        let end = session.end(PATIENCE).context("the connection stays open")?;
        return Ok(format!("{fate:?}, {reason}, {end}"));
    }
    // A bad request does not cost the good ones their connection.
    let next = session.stream();
    session.push(&http2::connect(next, &stage.echo().to_string()))?;
    let after = session.fate_of(next, PATIENCE);
    ensure!(after == Fate::Status(200), "the next request: {after:?}");
    Ok(format!("{fate:?}, {reason}"))
}

fn authorities(table: &mut Table, stage: &Stage<'_>, other: &lab::Pod) {
    let own = stage.server.v4();
    let (bad, foreign) = ("bad_authority", "foreign_authority");
    let status = |status| vec![Fate::Status(status)];
    // What is no authority at all is refused where HTTP/2 itself is read.
    let malformed = || vec![Fate::Status(400), Fate::Reset(code::PROTOCOL_ERROR)];
    let node = stage.lab.node("b").v4();
    let cases = [
        ("a name", format!("server.shop:{ECHO}"), status(400), bad),
        ("no port", own.to_string(), status(400), bad),
        ("port 0", format!("{own}:0"), status(400), bad),
        ("port 65536", format!("{own}:65536"), status(400), bad),
        ("a port that is no number", format!("{own}:http"), malformed(), ""),
        ("user and password", format!("a:b@{own}:{ECHO}"), status(400), bad),
        ("IPv6 without brackets", format!("{}:{ECHO}", stage.server.v6()), malformed(), ""),
        ("garbage", "\u{1}\u{7f} <>{}".to_owned(), malformed(), ""),
        ("nothing", String::new(), malformed(), ""),
        ("another pod of the same node", format!("{}:{ECHO}", other.v4()), status(400), foreign),
        ("the same by IPv6", format!("[{}]:{ECHO}", other.v6()), status(400), foreign),
        ("a pod of another node", format!("{}:{ECHO}", stage.mallory.v4()), status(400), foreign),
        ("loopback", format!("127.0.0.1:{ECHO}"), status(400), foreign),
        ("loopback by IPv6", format!("[::1]:{ECHO}"), status(400), foreign),
        ("anywhere", format!("0.0.0.0:{ECHO}"), status(400), foreign),
        ("the node", format!("{node}:22"), status(400), foreign),
        ("the agent's metrics", "127.0.0.1:15020".to_owned(), status(400), foreign),
        ("the agent's own port", format!("{own}:15008"), status(400), "agent_port"),
        ("a port where nobody listens", format!("{own}:9"), status(503), "app_refused"),
    ];
    for (name, authority, wanted, reason) in cases {
        // Either refusal is fine, and each has its word.
        let reasons: &[&str] = if reason.is_empty() { &["bad_request", "bad_authority"] } else { &[reason] };
        table.row(&format!("authority: {name}"), || {
            let ask = |session: &mut Session, stream| session.push(&http2::connect(stream, &authority));
            let before: Vec<_> = reasons
                .iter()
                .map(|reason| Counter::failed(stage.agent(), "inbound", reason))
                .collect::<Result<_>>()?;
            if let [reason] = reasons {
                return refused(stage, reason, &wanted, ask);
            }
            let mut session = stage.enter()?;
            let stream = session.stream();
            ask(&mut session, stream)?;
            let fate = session.fate_of(stream, PATIENCE);
            ensure!(wanted.contains(&fate), "{fate:?}");
            lab::eventually(PATIENCE, || {
                let moved = before.iter().any(|counter| counter.moved().is_ok_and(|moved| moved > 0));
                if moved { Ok(()) } else { Err(format!("none of {reasons:?} has moved")) }
            })?;
            Ok(format!("{fate:?}"))
        });
    }
}

fn requests(table: &mut Table, stage: &Stage<'_>) {
    let echo = stage.echo().to_string();
    let fields = |method| [(":method", method), (":scheme", "https"), (":path", "/"), (":authority", &*echo)];
    for method in ["GET", "POST", "OPTIONS", "BREW"] {
        table.row(&format!("method: {method}"), || {
            refused(stage, "bad_request", &[Fate::Status(405)], |session, stream| {
                session.push(&http2::request(stream, &fields(method)))
            })
        });
    }
    let malformed = [Fate::Reset(code::PROTOCOL_ERROR), Fate::Status(400)];
    for (name, fields) in [
        ("CONNECT without an authority", vec![(":method", "CONNECT")]),
        ("no method", vec![(":authority", &*echo)]),
        ("connection: close", vec![(":method", "CONNECT"), (":authority", &*echo), ("connection", "close")]),
    ] {
        table.row(name, || {
            let reason = if name.contains("authority") { "" } else { "bad_request" };
            let ask = |session: &mut Session, stream| session.push(&http2::request(stream, &fields));
            if reason.is_empty() {
                let mut session = stage.enter()?;
                let stream = session.stream();
                ask(&mut session, stream)?;
                let fate = session.fate_of(stream, PATIENCE);
                ensure!(malformed.contains(&fate), "{fate:?}");
                return Ok(format!("{fate:?}"));
            }
            refused(stage, reason, &malformed, ask)
        });
    }
    let long = "x".repeat(20_000);
    let connect = [(":method", "CONNECT"), (":authority", &*echo)];
    table.row("20 KB of one header", || {
        let fields: Vec<_> = connect.iter().copied().chain([("baggage", &*long)]).collect();
        refused(stage, "headers_too_large", &[Fate::Status(431)], |session, stream| {
            session.push(&http2::request(stream, &fields))
        })
    });
    table.row("400 headers", || {
        let many = std::iter::repeat_n(("x-one-of-many", "and one more value"), 400);
        let fields: Vec<_> = connect.iter().copied().chain(many).collect();
        refused(stage, "headers_too_large", &[Fate::Status(431)], |session, stream| {
            session.push(&http2::request(stream, &fields))
        })
    });
}

/// Frames that may not be sent at all.
fn frames(table: &mut Table, stage: &Stage<'_>) {
    let echo = stage.echo().to_string();
    let head = http2::block(&[(":method", "CONNECT"), (":authority", &echo)]);
    let long_frame = {
        let mut bytes = http2::frame(kind::PING, 0, 0, &[]);
        bytes[..3].copy_from_slice(&[0xff; 3]);
        bytes
    };
    let promise = [&2_u32.to_be_bytes()[..], &head].concat();
    let with = |name| {
        let fields = [(":method", "CONNECT"), (":authority", &*echo), (name, "x")];
        http2::frame(kind::HEADERS, END_HEADERS, 1, &http2::block(&fields))
    };
    let cases: [(&str, Vec<u8>, &[u32]); 13] = [
        ("a header in capitals", with("Baggage"), &[1]),
        ("a pseudo-header that there is not", with(":x"), &[1]),
        ("a body before the headers", http2::frame(kind::DATA, 0, 1, b"hello"), &[1]),
        ("headers of stream 0", http2::frame(kind::HEADERS, END_HEADERS, 0, &head), &[1]),
        ("headers of an even stream", http2::frame(kind::HEADERS, END_HEADERS, 2, &head), &[1]),
        ("headers that are no HPACK", http2::frame(kind::HEADERS, END_HEADERS, 1, &[0xff; 40]), &[1, 9]),
        ("CONTINUATION of nothing", http2::frame(kind::CONTINUATION, END_HEADERS, 1, &head), &[1]),
        (
            "another frame between headers",
            [http2::frame(kind::HEADERS, 0, 1, &head), http2::frame(kind::PING, 0, 0, &[0; 8])].concat(),
            &[1],
        ),
        ("a promise", http2::frame(5, END_HEADERS, 1, &promise), &[1]),
        ("RST_STREAM of a stream that there is not", http2::reset(99, code::CANCEL), &[1]),
        ("PING of seven bytes", http2::frame(kind::PING, 0, 0, &[0; 7]), &[1, 6]),
        ("SETTINGS with a window that is too large", http2::setting(4, u32::MAX), &[1, 3]),
        ("a frame of 16 MB", long_frame, &[6]),
    ];
    for (name, bytes, codes) in cases {
        table.row(name, || {
            let wanted: Vec<_> = codes.iter().map(|code| Fate::GoAway(*code)).collect();
            let said = refused(stage, "protocol_error", &wanted, |session, _| session.push(&bytes))?;
            Ok(said)
        });
    }
    table.row("garbage after the handshake", || {
        let counter = Counter::failed(stage.agent(), "inbound", "protocol_error")?;
        let mut session = stage.visit(&hostile::session::Hello::with(&stage.own))?;
        session.shake_hands(PATIENCE)?;
        session.push(&[b'x'; 1000])?;
        let end = session.end(PATIENCE).context("the connection stays open")?;
        counter.await_moved(1)?;
        Ok(end)
    });
    table.row("garbage between TLS records", || {
        let counter = Counter::failed(stage.agent(), "inbound", "protocol_error")?;
        let mut session = stage.enter()?;
        session.push_raw(&[23, 3, 3, 0, 40].into_iter().chain([7; 40]).collect::<Vec<u8>>())?;
        let end = session.end(Duration::from_secs(5)).context("the connection stays open")?;
        ensure!(end == "alert BadRecordMac" || end == "alert DecryptError", "{end}");
        counter.await_moved(1)?;
        Ok(end)
    });
}
