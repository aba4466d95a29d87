//! Promise: a foreign agent reaches a captured pod through Weft's port 15008 as it would reach a pod of its own mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use foreign::app::{self, App};
use foreign::client::Windows;
use foreign::stream::{Ending, hear, say};
use foreign::{Cast, Client, HBONE, Stream};
use h2::Reason;
use http::Method;
use lab::row::Table;
use lab::{Lab, programs};

const TEST: &str = "a_foreign_client_gets_on_with_weft";
const ECHO: u16 = 9002;
const MIB: usize = 1 << 20;

#[test]
fn a_foreign_client_gets_on_with_weft() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(gets_on);
}

fn gets_on(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let _echo = programs::peer(&cast.server, "echo", ECHO, &[])?;
    let mut table = Table::new(TEST);
    let mut client = cast.call(cast.server.v4())?;
    let agreed = client.agreed.clone();
    table.row("a handshake with what ztunnel offers", || Ok(agreed));
    both_ways(&mut table, &cast, &client);
    endings(&mut table, &cast, &client);
    many(&mut table, &cast, &client);
    odd_windows(&mut table, &cast);
    early(&mut table, &cast, &client);
    refusals(&mut table, &cast, &client);
    table.row("the agent answers PINGs", || {
        cast.runtime.block_on(client.ping())?;
        Ok(String::new())
    });
    table.row("what its SETTINGS say", || {
        ensure!(!client.is_extended(), "extended CONNECT is announced");
        // A ztunnel puts 100 streams on a connection.
        ensure!(client.most_streams() >= 100, "{} streams", client.most_streams());
        Ok(format!("{} streams, no extended CONNECT", client.most_streams()))
    });
    table.row("all of it went over one connection", || {
        ensure!(client.is_open(), "it is closed");
        Ok(String::new())
    });
    drop(client);
    table.row("the agent has forgotten them all", || {
        lab::eventually(Duration::from_secs(5), || {
            let rows = lab.agent("b").connections().map_err(|error| format!("{error:#}"))?;
            if rows.is_empty() { Ok(()) } else { Err(format!("{rows:?}")) }
        })?;
        Ok(String::new())
    });
    table.finish();
    Ok(())
}

/// A tunnel to an application in the test's hands, and the application's end.
fn converse(cast: &Cast, client: &Client) -> Result<(Stream, TcpStream)> {
    let host = App::start(&cast.server)?;
    let stream = cast.runtime.block_on(client.connect(host.at(cast.server.v4())))?;
    Ok((stream, host.accept()?))
}

fn both_ways(table: &mut Table, cast: &Cast, client: &Client) {
    for (family, address) in [("IPv4", IpAddr::from(cast.server.v4())), ("IPv6", cast.server.v6().into())] {
        table.row(&format!("bytes go both ways, {family}"), || {
            let client = cast.call(address)?;
            cast.runtime.block_on(async {
                let mut stream = client.connect(SocketAddr::new(address, ECHO)).await?;
                stream.echo(b"what a foreign agent says").await?;
                stream.end()?;
                ensure!(stream.ending().await? == Ending::Clean, "no clean end");
                Ok(String::new())
            })
        });
    }
    table.row("bytes go both ways by hand", || {
        let (mut stream, app) = converse(cast, client)?;
        cast.runtime.block_on(stream.say(&b"question"[..]))?;
        app::expect(&app, b"question")?;
        (&app).write_all(b"answer")?;
        cast.runtime.block_on(stream.expect(b"answer"))?;
        Ok(String::new())
    });
}

fn endings(table: &mut Table, cast: &Cast, client: &Client) {
    table.row("the client ends first, then gets its answer", || {
        let (mut stream, app) = converse(cast, client)?;
        stream.end()?;
        app::ends(&app, "eof")?;
        (&app).write_all(b"answer")?;
        app.shutdown(Shutdown::Write)?;
        cast.runtime.block_on(stream.expect(b"answer"))?;
        let ending = cast.runtime.block_on(stream.ending())?;
        ensure!(ending == Ending::Clean, "{ending:?}");
        Ok(String::new())
    });
    table.row("the application ends first, then gets its answer", || {
        let (mut stream, app) = converse(cast, client)?;
        app.shutdown(Shutdown::Write)?;
        let ending = cast.runtime.block_on(stream.ending())?;
        ensure!(ending == Ending::Clean, "{ending:?}");
        cast.runtime.block_on(stream.say(&b"answer"[..]))?;
        stream.end()?;
        app::expect(&app, b"answer")?;
        app::ends(&app, "eof")?;
        Ok(String::new())
    });
    for reason in [Reason::CANCEL, Reason::CONNECT_ERROR, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        table.row(&format!("the client's {reason:?} is a RST to the application"), || {
            let (stream, app) = converse(cast, client)?;
            stream.reset(reason);
            app::ends(&app, "ECONNRESET")?;
            Ok(String::new())
        });
    }
    table.row("the application's RST is a CONNECT_ERROR", || {
        let (mut stream, app) = converse(cast, client)?;
        app::reset(app)?;
        let ending = cast.runtime.block_on(stream.ending())?;
        // A ztunnel would take CANCEL and NO_ERROR for a clean end.
        ensure!(ending == Ending::Reset(Reason::CONNECT_ERROR), "{ending:?}");
        Ok(format!("{ending:?}"))
    });
    table.row("the client's connection goes away: a RST to the application", || {
        let client = cast.call(cast.server.v4())?;
        let (_stream, app) = converse(cast, &client)?;
        drop(client);
        app::ends(&app, "ECONNRESET")?;
        Ok(String::new())
    });
    table.row("trailers are a clean end", || {
        let (mut stream, app) = converse(cast, client)?;
        cast.runtime.block_on(stream.say(&b"all"[..]))?;
        let trailers = [("checksum".parse()?, "none".parse()?)].into_iter().collect();
        stream.send.send_trailers(trailers)?;
        app::expect(&app, b"all")?;
        app::ends(&app, "eof")?;
        Ok(String::new())
    });
}

fn many(table: &mut Table, cast: &Cast, client: &Client) {
    const STREAMS: usize = 64;
    table.row("64 tunnels at once on one connection", || {
        cast.runtime.block_on(async {
            let to = SocketAddr::new(cast.server.v4().into(), ECHO);
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                streams.push(client.ask(&to.to_string(), &[]).await?);
            }
            let each = streams.into_iter().map(async |asked| {
                let mut stream = asked.accepted().await?;
                let data = vec![7; 64 << 10];
                stream.say(data.clone()).await?;
                stream.expect(&data).await?;
                stream.end()?;
                ensure!(stream.ending().await? == Ending::Clean, "no clean end");
                Ok(())
            });
            futures_util::future::try_join_all(each).await?;
            Ok(format!("{STREAMS} times 64 KiB and back"))
        })
    });
    table.row("64 MiB each way, every byte where it belongs", || {
        let (stream, app) = converse(cast, client)?;
        bulk(cast, stream, app, 64 * MIB)
    });
}

/// Different bytes in both directions at once.
fn bulk(cast: &Cast, stream: Stream, app: TcpStream, bytes: usize) -> Result<String> {
    let (up, down) = (app::noise(1, bytes), app::noise(2, bytes));
    thread::scope(|scope| {
        let (reading, writing) = (&app, &app);
        let reader = scope.spawn(move || {
            let mut heard = Vec::with_capacity(bytes);
            let mut from = reading;
            from.read_to_end(&mut heard).context("the application's reads").map(|_| heard)
        });
        let words = &down;
        let writer = scope.spawn(move || {
            let mut to = writing;
            to.write_all(words).context("the application's writes")?;
            anyhow::Ok(writing.shutdown(Shutdown::Write)?)
        });
        let Stream { mut send, mut receive } = stream;
        let heard = cast.runtime.block_on(async {
            let said = async {
                for piece in up.chunks(MIB) {
                    say(&mut send, Bytes::copy_from_slice(piece)).await?;
                }
                anyhow::Ok(send.send_data(Bytes::new(), true)?)
            };
            let heard = async {
                let mut heard = Vec::with_capacity(bytes);
                while heard.len() < bytes {
                    heard.extend(hear(&mut receive, MIB.min(bytes - heard.len())).await?);
                }
                let end = receive.data().await.transpose()?;
                ensure!(end.is_none_or(|end| end.is_empty()), "more than was said");
                Ok(heard)
            };
            tokio::try_join!(said, heard)
        });
        let joined = "a thread of the test";
        writer.join().expect(joined)?;
        ensure!(reader.join().expect(joined)? == up, "what went up is not what came");
        ensure!(heard?.1 == down, "what went down is not what came");
        Ok(format!("{} MiB each way", bytes / MIB))
    })
}

fn odd_windows(table: &mut Table, cast: &Cast) {
    let windows = |stream, connection, frame| Windows { stream, connection, frame };
    let cases = [
        ("of 1 byte", windows(1, 65_535, 16_384), 2_000),
        ("of 7 bytes", windows(7, 65_535, 16_384), 20_000),
        ("of 16,383 bytes, less than a frame", windows(16_383, 65_535, 16_384), MIB),
        ("of 65,535 bytes on stream and connection", windows(65_535, 65_535, 16_384), 4 * MIB),
        ("as large as they can be", windows((1 << 31) - 1, (1 << 31) - 1, (1 << 24) - 1), 4 * MIB),
    ];
    for (name, windows, bytes) in cases {
        table.row(&format!("the client's windows are {name}"), || {
            let client = cast.call_with(cast.server.v4(), windows)?;
            let host = App::start(&cast.server)?;
            let stream = cast.runtime.block_on(client.connect(host.at(cast.server.v4())))?;
            bulk(cast, stream, host.accept()?, bytes).map(|_| format!("{bytes} bytes each way"))
        });
    }
}

fn early(table: &mut Table, cast: &Cast, client: &Client) {
    table.row("a client that speaks before the answer", || {
        let host = App::start(&cast.server)?;
        cast.runtime.block_on(async {
            let mut asked = client.ask(&host.at(cast.server.v4()).to_string(), &[]).await?;
            asked.send.send_data(Bytes::from_static(b"too early for a 200"), true)?;
            asked.accepted().await
        })?;
        let app = host.accept()?;
        app::expect(&app, b"too early for a 200")?;
        app::ends(&app, "eof")?;
        Ok(String::new())
    });
    table.row("a client that says nothing hears a server that speaks first", || {
        let (mut stream, app) = converse(cast, client)?;
        (&app).write_all(b"220 ready")?;
        cast.runtime.block_on(stream.expect(b"220 ready"))?;
        Ok(String::new())
    });
}

/// What a ztunnel makes of it: anything but 200 fails the connection, and the number is in its log.
fn refusals(table: &mut Table, cast: &Cast, client: &Client) {
    let own = cast.server.v4();
    let cases: [(&str, Method, String, u16); 8] = [
        ("a port where nobody listens", Method::CONNECT, format!("{own}:9"), 503),
        ("another pod's address", Method::CONNECT, format!("{}:{ECHO}", cast.client.v4()), 400),
        ("loopback", Method::CONNECT, format!("127.0.0.1:{ECHO}"), 400),
        ("the agent's own port", Method::CONNECT, format!("{own}:{HBONE}"), 400),
        ("the name of a Service", Method::CONNECT, "web.shop.svc.cluster.local:80".into(), 400),
        ("an address without a port", Method::CONNECT, own.to_string(), 400),
        ("an IPv6 address without brackets", Method::CONNECT, "fd00:80".into(), 400),
        ("another method", Method::GET, format!("https://{own}:{ECHO}/"), 405),
    ];
    for (name, method, authority, wanted) in cases {
        for early in [false, true] {
            let when = if early { ", with data behind it" } else { "" };
            table.row(&format!("{name}: {wanted}{when}"), || {
                cast.runtime.block_on(async {
                    let mut asked = client.request(method.clone(), &authority, &[]).await?;
                    if early {
                        // The answer may have been quicker.
                        let _ = asked.send.send_data(Bytes::from_static(b"early"), false);
                    }
                    let answer = asked.answer().await?;
                    ensure!(answer.status == wanted, "answered {}", answer.status);
                    let mut stream = answer.stream;
                    let ending = stream.ending().await?;
                    ensure!(ending == Ending::Clean, "{ending:?} after the status");
                    Ok(String::new())
                })
            });
        }
    }
}
