//! Promise: an application whose peer's agent is not what it should be, or does not do what it should, gets a RST, and the
//! reason is counted; nothing of what it wrote goes to somebody who was not believed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostile::certs::{Ca, Leaf, Shown};
use hostile::http2::{self, END_HEADERS, END_STREAM, code, frame, kind};
use hostile::session::{Hello, Session, TLS12};
use hostile::stage::{HBONE, PATIENCE, Stage, accept, identity};
use hostile::watch::{Counter, Holding, Log};
use lab::row::Table;
use lab::{Lab, Pod};

const TEST: &str = "a_bad_server_is_a_reset_to_the_application";
const SECRET: &[u8] = b"for the eyes of the right server alone";

#[test]
fn a_bad_server_is_a_reset_to_the_application() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(a_bad_server);
}

/// What a server does on a connection once HTTP/2 has begun and a CONNECT has come.
type Does = Box<dyn FnOnce(&mut Session) -> Result<()> + Send>;

/// A server, and what becomes of those who dial it.
struct Case {
    name: &'static str,
    hello: Hello,
    reason: &'static str,
    /// Seen in the log of the agent that dials.
    words: Vec<String>,
    does: Does,
    /// Whether it was believed, and so may have been told what the application wrote.
    believed: bool,
}

fn a_bad_server(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    let neighbours = stage.neighbours()?;
    let before = Holding::of(lab.agent("a"))?;
    let mut table = Table::new(TEST);
    let cases = cases(&stage)?;
    let mut pods = Vec::new();
    for number in 0..cases.len() {
        pods.push(stage.foreign(&format!("foreign-{number}"))?);
    }
    for (case, pod) in cases.into_iter().zip(&pods) {
        table.row(case.name, || is_reset(&stage, pod, case));
    }
    table.row("a server that says nothing at all", || silent(&stage));
    table
        .row("memory of the agent that dialled", || Ok(format!("{} KiB", before.grown(lab.agent("a"), 64)?)));
    table.row("neighbours", || neighbours.none_failed());
    table.finish();
    Ok(())
}

fn cases(stage: &Stage<'_>) -> Result<Vec<Case>> {
    // Each case has a pod with a service account of its number.
    let mut cases: Vec<Case> = Vec::new();
    let nothing = || -> Does { Box::new(|_| Ok(())) };
    let mut add =
        |name, reason, words: Vec<String>, believed, does: Does, make: &dyn Fn(&str) -> Result<Hello>| {
            let own = identity("yard", &format!("foreign-{}", cases.len()));
            cases.push(Case { name, hello: make(&own)?, reason, words, does, believed });
            anyhow::Ok(())
        };
    let by_mesh = |own: &str| -> Result<Shown> { stage.ca.sign(&Leaf::of(&[own])?) };
    let good = |own: &str| -> Result<Hello> { Ok(Hello::with(&by_mesh(own)?)) };
    let clocks = || vec!["valid from".to_owned(), "this node's clock says".to_owned()];

    let other = identity("shop", "server");
    add("another workload's certificate", "peer_identity", vec![other.clone()], false, nothing(), &|_| {
        Ok(Hello::with(&by_mesh(&other)?))
    })?;
    add("a certificate of another root", "untrusted_root", vec![], false, nothing(), &|own| {
        Ok(Hello::with(&Ca::another()?.sign(&Leaf::of(&[own])?)?))
    })?;
    add("an expired certificate", "certificate_expired", clocks(), false, nothing(), &|own| {
        Ok(Hello::with(&stage.ca.sign(&Leaf::of(&[own])?.expired())?))
    })?;
    add("a certificate of tomorrow", "certificate_not_yet_valid", clocks(), false, nothing(), &|own| {
        Ok(Hello::with(&stage.ca.sign(&Leaf::of(&[own])?.of_tomorrow())?))
    })?;
    add("a certificate with two names", "bad_san", vec![], false, nothing(), &|own| {
        Ok(Hello::with(&stage.ca.sign(&Leaf::of(&[own, &other])?)?))
    })?;
    add("TLS 1.2 alone", "tls_version", vec![], false, nothing(), &|own| {
        Ok(Hello { versions: TLS12, ..good(own)? })
    })?;
    add("another protocol", "alpn", vec![], false, nothing(), &|own| {
        Ok(Hello { alpn: &["http/1.1"], ..good(own)? })
    })?;
    add("no protocol", "alpn", vec![], false, nothing(), &|own| Ok(Hello { alpn: &[], ..good(own)? }))?;

    let say = |bytes: Vec<u8>| -> Does { Box::new(move |session| session.push(&bytes)) };
    let ok = || frame(kind::HEADERS, END_HEADERS, 1, &[0x88]);
    let garbage = [ok(), vec![0x5a; 5000]].concat();
    add("200, then garbage", "tunnel_broken", vec![], true, say(garbage), &good)?;
    let refused = http2::block(&[(":status", "503")]);
    let refused = frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &refused);
    add("503", "peer_refused", vec![], true, say(refused), &good)?;
    let away = [0_u32.to_be_bytes(), code::NO_ERROR.to_be_bytes()].concat();
    add("GOAWAY at once", "tunnel_broken", vec![], true, say(frame(kind::GOAWAY, 0, 0, &away)), &good)?;
    let endless: Does = Box::new(|session| {
        session.push(&frame(kind::HEADERS, 0, 1, &[0x88]))?;
        let more = http2::block(&[("x-more", &"y".repeat(1000))]);
        session.flood(100_000, |_| frame(kind::CONTINUATION, 0, 1, &more))?;
        Ok(())
    });
    add("headers without end", "tunnel_broken", vec![], true, endless, &good)?;
    let pings: Does = Box::new(|session| {
        let sent = session.flood(500_000, |_| frame(kind::PING, 0, 0, &[7; 8]))?;
        ensure!(session.is_over() && sent < 500_000, "{sent} PINGs are taken");
        Ok(())
    });
    add("PING without end", "tunnel_broken", vec![], true, pings, &good)?;
    add("RST_STREAM", "reset", vec![], true, say(http2::reset(1, code::CANCEL)), &good)?;
    add("the end of TCP", "tunnel_broken", vec![], true, nothing(), &good)?;
    Ok(cases)
}

/// One application dials; it must see a RST soon, and the server nothing that it may not see.
fn is_reset(stage: &Stage<'_>, pod: &Arc<Pod>, case: Case) -> Result<String> {
    let Case { hello, reason, words, does, believed, .. } = case;
    let agent = stage.lab.agent("a");
    let failed = Counter::failed(agent, "outbound", reason)?;
    let closed = Counter::closed(agent, "outbound", reason)?;
    let listener = pod.listen(SocketAddr::new(IpAddr::V4(pod.v4()), HBONE))??;
    let config = hello.server_config()?;
    let server = std::thread::spawn(move || serve(&listener, config, does));
    let start = Instant::now();
    let mut app = stage.client.connect(SocketAddr::new(pod.v4().into(), 80), PATIENCE)??;
    app.set_read_timeout(Some(PATIENCE))?;
    // It may be reset before it has written.
    let wrote = app.write_all(SECRET);
    let end = std::io::copy(&mut app, &mut std::io::sink());
    let reset = |error: &std::io::Error| {
        matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe)
    };
    ensure!(
        end.as_ref().is_err_and(reset) || wrote.as_ref().is_err_and(reset),
        "the application reads {end:?} after it wrote {wrote:?}"
    );
    let took = start.elapsed();
    let told = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(believed || told.is_empty(), "the server was told {} bytes", told.len());
    lab::eventually(PATIENCE, || match (failed.moved(), closed.moved()) {
        (Ok(0), Ok(0)) => Err(format!("{reason} is not counted")),
        _ => Ok(()),
    })?;
    if !believed {
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let named = format!("reason=\"{reason}\"");
        words.push(&named);
        Log::of(stage.lab, "a").await_line(&words)?;
    }
    Ok(format!("{reason}, RST after {} ms", took.as_millis()))
}

/// Serves one connection. Says what came on it beside frames of control, as far as it got.
fn serve(listener: &TcpListener, config: Arc<rustls::ServerConfig>, does: Does) -> Result<Vec<u8>> {
    let mut session = Session::server(accept(listener)?, config)?;
    if session.shake_hands(PATIENCE).is_err() {
        return Ok(Vec::new());
    }
    session.push(&frame(kind::SETTINGS, 0, 0, &[]))?;
    let told = session.preface_and_request(PATIENCE)?;
    if told.is_empty() {
        return Ok(told);
    }
    does(&mut session)?;
    session.send_all(PATIENCE);
    // Reads to the end or for a moment: closing with unread bytes would be a RST of TCP.
    session.end(Duration::from_millis(500));
    Ok(told)
}

/// A server that takes the TCP connection and says nothing: the handshake has 10 s.
fn silent(stage: &Stage<'_>) -> Result<String> {
    let pod = stage.foreign("silent")?;
    let _listener = pod.listen(SocketAddr::new(IpAddr::V4(pod.v4()), HBONE))??;
    let counter = Counter::failed(stage.lab.agent("a"), "outbound", "connect_timeout")?;
    let start = Instant::now();
    let mut app = stage.client.connect(SocketAddr::new(pod.v4().into(), 80), PATIENCE)??;
    app.set_read_timeout(Some(Duration::from_secs(20)))?;
    let end = app.read(&mut [0; 16]);
    let took = start.elapsed();
    ensure!(end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset), "{end:?}");
    ensure!((8..18).contains(&took.as_secs()), "after {took:?}");
    counter.await_moved(1).context("counted")?;
    Ok(format!("RST after {} ms", took.as_millis()))
}
