//! Promise: who cannot show that he is of the mesh gets the TLS alert that says why, and the agent's log and counters name
//! the same reason; a certificate that is not valid is refused with its own times and this node's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hostile::certs::{Ca, Leaf, Shown};
use hostile::http2;
use hostile::session::{Fate, Hello, TLS12};
use hostile::stage::{PATIENCE, Stage, identity};
use hostile::watch::{Counter, Log};
use lab::Lab;
use lab::row::Table;

const TEST: &str = "nobody_comes_in_without_a_good_certificate";

#[test]
fn nobody_comes_in_without_a_good_certificate() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(nobody_comes_in);
}

/// A client's hello, the alert it gets, and the reason that is counted, with words of the log line.
struct Case<'a> {
    name: &'a str,
    hello: Hello,
    alert: &'a str,
    reason: &'a str,
    words: Vec<&'a str>,
}

fn nobody_comes_in(lab: &Lab) -> Result<()> {
    let stage = Stage::set(lab)?;
    let neighbours = stage.neighbours()?;
    let mut table = Table::new(TEST);
    let own = identity("yard", "mallory");
    let sign = |leaf: Leaf| stage.ca.sign(&leaf);
    let of = |uris: &[&str]| sign(Leaf::of(uris)?);
    let with = Hello::with;
    let elsewhere = own.replace(lab::TRUST_DOMAIN, "elsewhere.test");
    let clocks = vec![own.as_str(), "valid from", "this node's clock says"];
    let case = |name, hello, alert, reason, words| Case { name, hello, alert, reason, words };

    table.row("a good certificate comes in", || {
        let counter = Counter::handshakes(stage.agent(), "server", "ok")?;
        stage.enter()?;
        counter.await_moved(1)?;
        Ok(String::new())
    });
    let other = Ca::another()?.sign(&Leaf::of(&[&own])?)?;
    let stolen = Shown { chain: stage.own.chain.clone(), key: other.key.clone_key() };
    let cases = [
        case("of another root", with(&other), "UnknownCA", "untrusted_root", vec!["trust"]),
        case(
            "expired",
            with(&sign(Leaf::of(&[&own])?.expired())?),
            "CertificateExpired",
            "certificate_expired",
            clocks.clone(),
        ),
        case(
            "not yet valid",
            with(&sign(Leaf::of(&[&own])?.of_tomorrow())?),
            "CertificateExpired",
            "certificate_not_yet_valid",
            clocks,
        ),
        case(
            "no certificate",
            Hello { shown: None, ..with(&stage.own) },
            "CertificateRequired",
            "no_peer_certificate",
            vec![],
        ),
        case(
            "no URI, a DNS name",
            with(&sign(Leaf::of(&[])?.dns("shop.test")?)?),
            "CertificateUnknown",
            "bad_san",
            vec![],
        ),
        case(
            "a URI that is no SPIFFE ID",
            with(&of(&["https://lab.weft.dev/ns/yard/sa/mallory"])?),
            "CertificateUnknown",
            "bad_san",
            vec![],
        ),
        case(
            "a SPIFFE ID that is no workload's",
            with(&of(&["spiffe://lab.weft.dev/yard/mallory"])?),
            "CertificateUnknown",
            "bad_san",
            vec![],
        ),
        case(
            "two URIs",
            with(&of(&[&own, &identity("shop", "client")])?),
            "CertificateUnknown",
            "bad_san",
            vec!["2 URI SANs"],
        ),
        case(
            "of another trust domain",
            with(&of(&[&elsewhere])?),
            "AccessDenied",
            "peer_identity",
            vec![&elsewhere],
        ),
        case(
            "for servers alone",
            with(&sign(Leaf::of(&[&own])?.server_only())?),
            "UnsupportedCertificate",
            "bad_certificate",
            vec![],
        ),
        case("somebody else's, without its key", with(&stolen), "DecryptError", "bad_certificate", vec![]),
        case(
            "TLS 1.2 alone",
            Hello { versions: TLS12, ..with(&stage.own) },
            "ProtocolVersion",
            "tls_version",
            vec![],
        ),
        case(
            "another protocol",
            Hello { alpn: &["http/1.1"], ..with(&stage.own) },
            "NoApplicationProtocol",
            "alpn",
            vec![],
        ),
        case("no protocol", Hello { alpn: &[], ..with(&stage.own) }, "NoApplicationProtocol", "alpn", vec![]),
    ];
    for case in cases {
        table.row(case.name, || refused(&stage, &case));
    }
    no_tls(&mut table, &stage);
    table.row("the agent's own is valid from ten minutes before it was signed", || back_dated(&stage));
    table.row("neighbours", || neighbours.none_failed());
    table.finish();
    Ok(())
}

fn refused(stage: &Stage<'_>, case: &Case<'_>) -> Result<String> {
    let handshakes = Counter::handshakes(stage.agent(), "server", case.reason)?;
    let failed = Counter::failed(stage.agent(), "inbound", case.reason)?;
    let mut session = stage.visit(&case.hello)?;
    let start = Instant::now();
    // The verdict on a certificate comes after the client's end of the handshake.
    let fate = match session.shake_hands(PATIENCE) {
        Ok(()) => {
            // Refused by rustls where the alert is there already.
            let _ = session.push(http2::PREFACE);
            session.fate(PATIENCE)
        }
        Err(error) => Fate::Ended(format!("{error:#}")),
    };
    let took = start.elapsed();
    ensure!(fate == Fate::Ended(format!("alert {}", case.alert)), "{fate:?}");
    ensure!(took < Duration::from_secs(5), "after {took:?}");
    handshakes.await_moved(1)?;
    failed.await_moved(1)?;
    let mut words = case.words.clone();
    let reason = format!("reason=\"{}\"", case.reason);
    words.push(&reason);
    Log::of(stage.lab, "b").await_line(&words)?;
    Ok(format!("{}, {}", case.alert, case.reason))
}

/// What is no TLS at all.
fn no_tls(table: &mut Table, stage: &Stage<'_>) {
    let random: Vec<u8> = (0..2000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let http = b"GET / HTTP/1.1\r\nHost: server\r\n\r\n".to_vec();
    let cut = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
    for (name, bytes, finish) in
        [("garbage", random, false), ("HTTP/1.1", http, false), ("half a ClientHello, then FIN", cut, true)]
    {
        table.row(name, || {
            let counter = Counter::handshakes(stage.agent(), "server", "tls_handshake")?;
            let mut tcp = stage.dial()?;
            tcp.write_all(&bytes)?;
            if finish {
                tcp.shutdown(std::net::Shutdown::Write)?;
            }
            tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut answer = Vec::new();
            let end = tcp.read_to_end(&mut answer);
            let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            ensure!(end.is_ok() || reset, "{end:?}");
            // A fatal alert and nothing else, if anything.
            ensure!(answer.is_empty() || (answer[0] == 21 && answer.len() == 7), "{answer:?}");
            counter.await_moved(1)?;
            Ok(format!("{answer:?}"))
        });
    }
}

/// It was signed when this test began.
fn back_dated(stage: &Stage<'_>) -> Result<String> {
    let visit = stage.enter()?;
    let age = visit.age_of_the_peers_certificate()?;
    ensure!(age >= Duration::from_secs(600), "valid since {age:?} only");
    ensure!(age < Duration::from_secs(900), "valid since {age:?} already");
    Ok(format!("valid since {} s", age.as_secs()))
}
