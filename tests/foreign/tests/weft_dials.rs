//! Promise: a captured pod reaches a pod that another mesh's agent serves, through that agent and not around it; what the
//! agent refuses or breaks off is a RST with a reason that is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use foreign::app::{deliver, dial, echo, ends, expect, noise, reset, send_back};
use foreign::counters::moved;
use foreign::pki::Offer;
use foreign::stream::{Ending, say};
use foreign::{Arrival, Cast, Key, Manner, Server};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use h2::Reason;
use lab::Lab;
use lab::programs::nginx;
use lab::row::Table;

const TEST: &str = "weft_gets_on_with_a_foreign_server";
const CLOSED: &str = "weft_connections_closed_total";
const FAILED: &str = "weft_connections_failed_total";
/// Where nobody listens: what answers there is the foreign agent itself.
const ANY: u16 = 7777;
const MIB: usize = 1 << 20;

#[test]
fn weft_gets_on_with_a_foreign_server() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(gets_on);
}

fn gets_on(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    table.row("with nobody at its port 15008 the pod is not reached at all", || {
        let behind = foreign::app::App::start(&cast.foreign)?;
        moved(lab.agent("a"), FAILED, &[("reason", "connect_refused")], || {
            let app = dial(&cast.client, behind.at(cast.foreign.v4()))?;
            let rows = lab.agent("a").connections();
            ends(&app, "ECONNRESET").with_context(|| format!("its agent's table: {rows:?}"))
        })?;
        Ok(String::new())
    });
    by_every_address(&mut table, lab, &cast)?;
    who_it_is(&mut table, lab, &cast);
    answers(&mut table, lab, &cast);
    endings(&mut table, lab, &cast);
    frames(&mut table, &cast);
    table.finish();
    Ok(())
}

/// Does something while the server runs, and lets the agent forget the server's connections.
fn hosted(
    cast: &Cast,
    manner: Manner,
    serve: impl Fn(Arrival) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    act: impl FnOnce(&Server) -> Result<String>,
) -> Result<String> {
    let server = cast.host(manner, serve)?;
    let done = act(&server).with_context(|| format!("the server saw failures: {:?}", server.failures()));
    server.stop()?;
    done
}

fn echoing(arrival: Arrival) -> BoxFuture<'static, ()> {
    send_back(arrival).boxed()
}

fn any(cast: &Cast) -> SocketAddr {
    SocketAddr::new(cast.foreign.v4().into(), ANY)
}

fn by_every_address(table: &mut Table, lab: &Lab, cast: &Cast) -> Result<()> {
    const SECRET: &str = "what-stands-behind-the-foreign-agent";
    let pod = &cast.foreign;
    let _nginx = nginx(pod).port(8080).file("secret", SECRET).start()?;
    let service = lab.service("yard/foreign").port(80, 8080).select("app", "foreign").create()?;
    service.await_endpoints(lab, 2)?;
    let wire = lab.capture_wire("b")?;
    for (name, url) in [
        ("pod, IPv4", format!("http://{}:8080/secret", pod.v4())),
        ("pod, IPv6", format!("http://[{}]:8080/secret", pod.v6())),
        ("service, IPv4", format!("http://{}/secret", service.v4())),
        ("service, IPv6", format!("http://[{}]/secret", service.v6())),
    ] {
        table.row(&format!("curl reaches nginx behind it: {name}"), || {
            let behind = pod.clone();
            let serve = move |arrival| {
                let pod = behind.clone();
                deliver(pod, arrival).map(|_| ()).boxed()
            };
            hosted(cast, Manner::default(), serve, |server| {
                let answer = cast.client.exec(["curl", "-sS", "--max-time", "10", &url])?.ok()?.text();
                ensure!(answer == SECRET, "answered {answer:?}");
                ensure!(server.arrivals().len() == 1, "{:?}", server.arrivals());
                Ok(server.arrivals()[0].uri.to_string())
            })
        });
    }
    let pcap = wire.stop()?;
    table.row("nothing of it can be read on the wire", || {
        let seen = pcap.count_plaintext(SECRET.as_bytes());
        ensure!(seen == 0, "{seen} times");
        for address in pod.addresses() {
            let plain = pcap.plaintext_syns_to(address, 8080);
            ensure!(plain == 0, "{plain} connections to {address} port 8080");
        }
        Ok(format!("{} TLS connections", pcap.tls_connections()))
    });
    Ok(())
}

fn who_it_is(table: &mut Table, lab: &Lab, cast: &Cast) {
    table.row("the server is told the client pod's identity, and no server name", || {
        hosted(cast, Manner::default(), echoing, |server| {
            echo(&dial(&cast.client, any(cast))?, b"who am I")?;
            let (clients, names) = (server.clients(), server.names());
            ensure!(clients == [cast.identity(&cast.client)], "{clients:?}");
            ensure!(names == [None], "{names:?}");
            Ok(clients[0].clone())
        })
    });
    for (name, key, through) in [
        ("an RSA certificate", Key::Rsa, false),
        ("a P-384 certificate", Key::P384, false),
        ("a chain through an intermediate authority", Key::P256, true),
    ] {
        table.row(&format!("the server has {name}"), || {
            let who = cast.identity(&cast.foreign);
            let issue = if through {
                cast.authority.issue_through(&who, key)
            } else {
                cast.authority.issue(&who, key)
            };
            let tls = issue?.server(&Offer::default())?;
            let handle = cast.runtime.handle();
            let server = Server::start(handle, &cast.foreign, tls, Manner::default(), echoing)?;
            echo(&dial(&cast.client, any(cast))?, b"hello")?;
            server.stop()?;
            Ok(String::new())
        });
    }
    table.row("a server with another pod's certificate is told nothing", || {
        let tls = cast.authority.issue(&cast.identity(&cast.caller), Key::P256)?.server(&Offer::default())?;
        let server = Server::start(cast.runtime.handle(), &cast.foreign, tls, Manner::default(), echoing)?;
        moved(lab.agent("a"), FAILED, &[("reason", "peer_identity")], || {
            let mut app = dial(&cast.client, any(cast))?;
            // The RST may be there before this.
            let _ = app.write_all(b"not for everybody");
            ends(&app, "ECONNRESET").or_else(|_| ends(&app, "eof"))
        })?;
        ensure!(server.arrivals().is_empty() && server.clients().is_empty(), "{:?}", server.clients());
        server.stop()?;
        Ok(String::new())
    });
    table.row("a server that does not agree on h2", || {
        let mut tls = cast.tls()?;
        tls.alpn_protocols = Vec::new();
        let server = Server::start(cast.runtime.handle(), &cast.foreign, tls, Manner::default(), echoing)?;
        moved(lab.agent("a"), FAILED, &[("reason", "alpn")], || {
            ends(&dial(&cast.client, any(cast))?, "ECONNRESET")
        })?;
        server.stop()?;
        Ok(String::new())
    });
}

fn answers(table: &mut Table, lab: &Lab, cast: &Cast) {
    table.row("an answer that comes late loses nothing of what was said meanwhile", || {
        let serve = |arrival: Arrival| {
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                send_back(arrival).await;
            }
            .boxed()
        };
        hosted(cast, Manner::default(), serve, |_| {
            let words = noise(3, 100_000);
            echo(&dial(&cast.client, any(cast))?, &words)?;
            Ok(String::new())
        })
    });
    table.row("1xx before the answer is passed over", || {
        let serve = |mut arrival: Arrival| {
            async {
                let informed = arrival.inform(100).and_then(|()| arrival.inform(103));
                if informed.is_ok() {
                    send_back(arrival).await;
                }
            }
            .boxed()
        };
        hosted(cast, Manner::default(), serve, |_| {
            echo(&dial(&cast.client, any(cast))?, b"patience")?;
            Ok(String::new())
        })
    });
    table.row("headers of the answer do not matter", || {
        let serve = |arrival: Arrival| {
            async {
                let headers = [("baggage", "service.name=foreign"), ("server", "envoy"), ("x-any", "1")];
                let headers =
                    headers.into_iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                if let Ok(mut stream) = arrival.accept_with(headers.collect()) {
                    let _ = foreign::app::give_back(&mut stream).await;
                }
            }
            .boxed()
        };
        hosted(cast, Manner::default(), serve, |_| {
            echo(&dial(&cast.client, any(cast))?, b"hello")?;
            Ok(String::new())
        })
    });
    for status in [400, 401, 403, 404, 502, 503] {
        for early in [false, true] {
            let what = if early { "a RST to an application that speaks" } else { "a RST" };
            table.row(&format!("{status} is {what}, counted as peer_refused"), || {
                let serve = move |arrival: Arrival| {
                    async move {
                        let _gone = arrival.refuse(status);
                    }
                    .boxed()
                };
                hosted(cast, Manner::default(), serve, |_| {
                    moved(lab.agent("a"), FAILED, &[("reason", "peer_refused")], || {
                        let mut app = dial(&cast.client, any(cast))?;
                        let told = early && app.write_all(b"hello?").is_err();
                        if told { Ok(()) } else { ends(&app, "ECONNRESET") }
                    })?;
                    Ok(String::new())
                })
            });
        }
    }
}

fn endings(table: &mut Table, lab: &Lab, cast: &Cast) {
    let saw: Arc<Mutex<Option<Ending>>> = Arc::default();
    let watching = saw.clone();
    let watch = move |arrival: Arrival| {
        let saw = watching.clone();
        async move {
            if let Ok(mut stream) = arrival.accept() {
                let _ = stream.say(&b"hello"[..]).await;
                *saw.lock().unwrap() = stream.ending().await.ok();
            }
        }
        .boxed()
    };
    table.row("the application's RST is a CONNECT_ERROR", || {
        hosted(cast, Manner::default(), watch, |_| {
            let app = dial(&cast.client, any(cast))?;
            expect(&app, b"hello")?;
            reset(app)?;
            let ending =
                lab::eventually(Duration::from_secs(5), || saw.lock().unwrap().ok_or_else(String::new))?;
            ensure!(ending == Ending::Reset(Reason::CONNECT_ERROR), "{ending:?}");
            Ok(format!("{ending:?}"))
        })
    });
    for reason in [Reason::CANCEL, Reason::CONNECT_ERROR, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        for answered in [true, false] {
            let when = if answered { "after" } else { "instead of" };
            table.row(&format!("{reason:?} {when} the answer is a RST to the application"), || {
                let serve = move |arrival: Arrival| {
                    async move {
                        if !answered {
                            return arrival.reset(reason);
                        }
                        if let Ok(mut stream) = arrival.accept() {
                            let _ = stream.say(&b"hello"[..]).await;
                            let _ = stream.receive.data().await;
                            stream.reset(reason);
                        }
                    }
                    .boxed()
                };
                hosted(cast, Manner::default(), serve, |_| {
                    let mut app = dial(&cast.client, any(cast))?;
                    if answered {
                        expect(&app, b"hello")?;
                        app.write_all(b"now")?;
                    }
                    ends(&app, "ECONNRESET")?;
                    Ok(String::new())
                })
            });
        }
    }
    table.row("either side may end first", || {
        hosted(cast, Manner::default(), echoing, |_| {
            let app = dial(&cast.client, any(cast))?;
            (&app).write_all(b"question")?;
            app.shutdown(Shutdown::Write)?;
            expect(&app, b"question")?;
            ends(&app, "eof")?;
            Ok("the client".into())
        })?;
        let serve = |arrival: Arrival| {
            async {
                if let Ok(mut stream) = arrival.accept() {
                    let _ = stream.say(&b"bye"[..]).await;
                    let _ = stream.end();
                    if stream.expect(b"bye yourself").await.is_ok() {
                        let _ = stream.ending().await;
                    }
                }
            }
            .boxed()
        };
        hosted(cast, Manner::default(), serve, |_| {
            let app = dial(&cast.client, any(cast))?;
            expect(&app, b"bye")?;
            ends(&app, "eof")?;
            (&app).write_all(b"bye yourself")?;
            drop(app);
            Ok("either".into())
        })
    });
    table.row("trailers are a clean end", || {
        let serve = |arrival: Arrival| {
            async {
                if let Ok(mut stream) = arrival.accept() {
                    let _ = stream.say(&b"all"[..]).await;
                    let trailers = [("checksum".parse().unwrap(), "none".parse().unwrap())];
                    let _ = stream.send.send_trailers(trailers.into_iter().collect());
                    let _ = stream.ending().await;
                }
            }
            .boxed()
        };
        hosted(cast, Manner::default(), serve, |_| {
            let app = dial(&cast.client, any(cast))?;
            expect(&app, b"all")?;
            ends(&app, "eof")?;
            Ok(String::new())
        })
    });
    // What h2, hyper and Envoy do when they have answered all and want no more of the request.
    table.row("an end that is followed by NO_ERROR loses nothing, however slow the reader", || {
        let serve = |arrival: Arrival| {
            async {
                if let Ok(mut stream) = arrival.accept() {
                    let _ = say(&mut stream.send, Bytes::from(noise(4, 4 * MIB))).await;
                    let _ = stream.end();
                    // Dropped with the request not at its end: h2 says NO_ERROR.
                }
            }
            .boxed()
        };
        let agent = lab.agent("a");
        hosted(cast, Manner::default(), serve, |_| {
            moved(agent, CLOSED, &[("reason", "clean"), ("destination_workload", "foreign")], || {
                let mut app = dial(&cast.client, any(cast))?;
                let mut heard = vec![0; 1000];
                app.read_exact(&mut heard)?;
                std::thread::sleep(Duration::from_millis(500));
                app.read_to_end(&mut heard)?;
                ensure!(heard == noise(4, 4 * MIB), "{} bytes of {}", heard.len(), 4 * MIB);
                Ok(())
            })?;
            Ok(format!("{} MiB", 4))
        })
    });
}

fn frames(table: &mut Table, cast: &Cast) {
    let manner = Manner { padding: Some(100), ..Manner::default() };
    table.row("padded DATA frames", || {
        hosted(cast, manner, echoing, |_| {
            let app = dial(&cast.client, any(cast))?;
            for round in 0..200 {
                echo(&app, &noise(round, 150))?;
            }
            app.shutdown(Shutdown::Write)?;
            ends(&app, "eof")?;
            Ok("200 rounds".into())
        })
    });
    table.row("a server that asks with PINGs all the time", || {
        hosted(cast, Manner { pings: true, ..Manner::default() }, echoing, |server| {
            let app = dial(&cast.client, any(cast))?;
            for round in 0..50 {
                echo(&app, &noise(round, 1000))?;
            }
            lab::eventually(Duration::from_secs(10), || match server.pongs() {
                20.. => Ok(()),
                few => Err(few.to_string()),
            })?;
            echo(&app, b"still there")?;
            Ok(format!("{} answered", server.pongs()))
        })
    });
    for window in [1, 1000, 65_535] {
        table.row(&format!("the server's windows are of {window} bytes"), || {
            let bytes = if window == 1 { 2_000 } else { MIB };
            let mut manner = Manner::default();
            (manner.windows.stream, manner.windows.connection) = (window, 65_535);
            hosted(cast, manner, echoing, |_| {
                let app = dial(&cast.client, any(cast))?;
                exchange(&app, &noise(5, bytes))?;
                Ok(format!("{bytes} bytes and back"))
            })
        });
    }
}

/// Writes and reads at once.
fn exchange(app: &TcpStream, words: &[u8]) -> Result<()> {
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut to = app;
            to.write_all(words)
        });
        expect(app, words)?;
        writer.join().expect("a thread of the test")?;
        Ok(())
    })
}
