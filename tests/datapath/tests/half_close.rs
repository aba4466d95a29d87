//! Promise: the end of a connection is the end that its other side made: half-closed, closed or reset, on every way that
//! the mesh carries.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::cast::{Cast, Way};
use datapath::conversation::{Conversation, Host, next_read, reset, say};
use lab::row::Table;
use lab::{Lab, programs};
use serde_json::Value;

type ByHand = (&'static str, fn(Conversation) -> Result<String>);

const TEST: &str = "connections_end_as_their_other_side_ended_them";
const BYTES: u64 = 3_000_000;
/// Longer than anything that may be in flight.
const PAUSE: Duration = Duration::from_secs(1);

const BY_HAND: [ByHand; 7] = [
    ("a client's RST reaches the server", client_resets),
    ("a server's RST reaches the client", server_resets),
    ("a server's RST after the client's FIN", server_resets_half_closed),
    ("a client's RST after the server's FIN", client_resets_half_closed),
    ("close with unread bytes is a RST", closed_unread),
    ("who sends to a closed server hears of it", closed_for_good),
    ("what was said before a close arrives first", said_and_closed),
];

#[test]
fn connections_end_as_their_other_side_ended_them() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(as_their_other_side_ended_them);
}

fn as_their_other_side_ended_them(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    for way in cast.ways() {
        for (family, address) in families(&way) {
            let name = |what: &str| format!("{what}, {}, {family}", way.name);
            table.row(&name("client is done first, then gets its answer"), || {
                halves(&way, address, 9100, false)
            });
            table.row(&name("server is done first, then gets its answer"), || {
                halves(&way, address, 9101, true)
            });
        }
        table.row(&format!("half-closed for a while, then answered, {}", way.name), || {
            answered_late(converse(&way, way.to.v4().into())?)
        });
        for (family, address) in families(&way) {
            for (name, test) in BY_HAND {
                table.row(&format!("{name}, {}, {family}", way.name), || test(converse(&way, address)?));
            }
        }
    }
    table.row("the agents have forgotten them all", || {
        for agent in lab.agents() {
            lab::eventually(Duration::from_secs(5), || {
                let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
                if rows.is_empty() { Ok(()) } else { Err(Value::from(rows).to_string()) }
            })?;
        }
        Ok(String::new())
    });
    table.finish();
    Ok(())
}

fn families(way: &Way<'_>) -> [(&'static str, IpAddr); 2] {
    [("IPv4", way.to.v4().into()), ("IPv6", way.to.v6().into())]
}

fn converse(way: &Way<'_>, address: IpAddr) -> Result<Conversation> {
    Host::start(way.to)?.converse(way.from, address)
}

/// A whole conversation of which one side has sent its FIN before the other says a byte.
fn halves(way: &Way<'_>, address: IpAddr, port: u16, server_first: bool) -> Result<String> {
    let bytes = BYTES.to_string();
    let mut more = vec!["--bytes", &bytes];
    more.extend(server_first.then_some("--server-first"));
    let server = programs::peer(way.to, "half-close-server", port, &more)?;
    let to = SocketAddr::new(address, port).to_string();
    let words = ["weft-lab-peer", "half-close-client", "--to", &to];
    let client: Value = way.from.exec(words.iter().chain(&more))?.ok()?.json()?;
    let server = lab::eventually(Duration::from_secs(5), || {
        let said = server.process.stdout_so_far();
        serde_json::from_str::<Value>(&said).map_err(|_| server.process.failure_report())
    })
    .context("wait for the server's side")?;
    for (name, said) in [("client", &client), ("server", &server)] {
        let whole = said["sent"] == BYTES && said["received"] == BYTES && said["match"] == true;
        let well = said["send_error"].is_null() && said["receive_error"].is_null();
        ensure!(whole && well, "{name}: {said}");
    }
    Ok(format!("{BYTES} bytes each way"))
}

fn answered_late(talk: Conversation) -> Result<String> {
    say(&talk.client, &talk.server, b"question")?;
    talk.client.shutdown(Shutdown::Write)?;
    expect("the server", &next_read(&talk.server), "eof")?;
    thread::sleep(PAUSE);
    say(&talk.server, &talk.client, b"answer")?;
    talk.server.shutdown(Shutdown::Write)?;
    expect("the client", &next_read(&talk.client), "eof")?;
    Ok(format!("{PAUSE:?} between"))
}

fn client_resets(talk: Conversation) -> Result<String> {
    say(&talk.client, &talk.server, b"hello")?;
    reset(talk.client)?;
    expect("the server", &next_read(&talk.server), "ECONNRESET")?;
    Ok(String::new())
}

fn server_resets(talk: Conversation) -> Result<String> {
    say(&talk.client, &talk.server, b"hello")?;
    reset(talk.server)?;
    expect("the client", &next_read(&talk.client), "ECONNRESET")?;
    Ok(String::new())
}

fn server_resets_half_closed(talk: Conversation) -> Result<String> {
    talk.client.shutdown(Shutdown::Write)?;
    expect("the server", &next_read(&talk.server), "eof")?;
    reset(talk.server)?;
    expect("the client", &next_read(&talk.client), "ECONNRESET")?;
    Ok(String::new())
}

fn client_resets_half_closed(talk: Conversation) -> Result<String> {
    talk.server.shutdown(Shutdown::Write)?;
    expect("the client", &next_read(&talk.client), "eof")?;
    reset(talk.client)?;
    expect("the server", &next_read(&talk.server), "ECONNRESET")?;
    Ok(String::new())
}

fn closed_unread(talk: Conversation) -> Result<String> {
    (&talk.client).write_all(b"nobody reads this")?;
    // In the server's socket, not on its way.
    lab::eventually(Duration::from_secs(5), || match talk.server.peek(&mut [0; 17]) {
        Ok(17) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    drop(talk.server);
    expect("the client", &next_read(&talk.client), "ECONNRESET")?;
    Ok(String::new())
}

/// The server has read all, has closed and is gone; only a RST can tell a client that goes on.
fn closed_for_good(talk: Conversation) -> Result<String> {
    say(&talk.client, &talk.server, b"hello")?;
    drop(talk.server);
    expect("the client", &next_read(&talk.client), "eof")?;
    let start = Instant::now();
    lab::eventually(Duration::from_secs(5), || match (&talk.client).write(b"anybody?") {
        Err(error) if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(format!("after {} ms", start.elapsed().as_millis()))
}

fn said_and_closed(talk: Conversation) -> Result<String> {
    let words = vec![7; 100_000];
    (&talk.server).write_all(&words)?;
    drop(talk.server);
    thread::sleep(Duration::from_millis(100));
    let mut heard = Vec::new();
    (&talk.client).read_to_end(&mut heard)?;
    ensure!(heard == words, "{} of {} bytes arrived", heard.len(), words.len());
    Ok(format!("{} bytes", words.len()))
}

fn expect(who: &str, said: &str, wanted: &str) -> Result<()> {
    ensure!(said == wanted, "{who} sees {said} instead of {wanted}");
    Ok(())
}
