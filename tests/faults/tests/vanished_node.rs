//! Fault: a node vanishes. Its frames are dropped both ways and nobody is told. Promise: every connection across it is
//! reset within 30 s at every end that the mesh has, whatever it was doing; nobody else notices; and when the node is back,
//! so are connections.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::conversation::{Conversation, Host, say};
use datapath::hammer::Hammer;
use datapath::held::Held;
use faults::meters;
use faults::vanish::vanish;
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};

/// The promise.
const BOUND: Duration = Duration::from_secs(30);
/// How long an end is watched.
const WATCH: Duration = Duration::from_secs(60);
/// How long the mesh may take once the node is back.
const BACK: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

/// What an end does when its peer vanishes.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Reads, and nothing has been said for a while.
    Waiting,
    /// Writes as fast as it is taken.
    Writing,
    /// Reads what comes as fast as it comes.
    Fetching,
}

/// An end that is watched by a thread of its own.
struct Watched {
    name: String,
    thread: JoinHandle<(Instant, String)>,
}

impl Watched {
    fn start(name: impl Into<String>, stream: TcpStream, doing: Doing) -> Self {
        let thread = std::thread::spawn(move || {
            let how = watch(stream, doing).unwrap_or_else(|error| format!("{error:#}"));
            (Instant::now(), how)
        });
        Self { name: name.into(), thread }
    }

    /// Fails unless it was reset within the bound.
    fn outcome(self, since: Instant) -> Result<String> {
        let (at, how) = self.thread.join().ok().context("the watcher panicked")?;
        let after = at.saturating_duration_since(since);
        ensure!(at > since, "it ended before: {how}");
        ensure!(how == "reset", "{how} after {after:.1?}");
        ensure!(after <= BOUND, "reset after {after:.1?}");
        Ok(format!("reset after {after:.1?}"))
    }
}

/// How a stream ends: `reset`, or what else.
fn watch(mut stream: TcpStream, doing: Doing) -> Result<String> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(WATCH))?;
    stream.set_write_timeout(Some(WATCH))?;
    let mut buffer = vec![0_u8; 65_536];
    loop {
        let step = match doing {
            Doing::Writing => stream.write(&buffer),
            Doing::Waiting | Doing::Fetching => stream.read(&mut buffer),
        };
        return Ok(match step {
            Ok(0) => "a clean end".to_owned(),
            Ok(count) if matches!(doing, Doing::Waiting) => format!("{count} bytes"),
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                "reset".to_owned()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                "nothing".to_owned()
            }
            Err(error) => error.to_string(),
        });
    }
}

/// Node a and c live on, node b vanishes.
struct Cast {
    client: Arc<Pod>,
    fresh: Arc<Pod>,
    stranger: Arc<Pod>,
    server: Arc<Pod>,
    store: Arc<Pod>,
    other: Arc<Pod>,
}

impl Cast {
    fn start(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |key: &str, node: &str| lab.pod(key).node(node).start();
        let cast = Self {
            client: pod("shop/client", "a")?,
            fresh: pod("shop/fresh", "a")?,
            stranger: pod("yard/stranger", "a")?,
            server: pod("shop/server", "b")?,
            store: pod("yard/store", "b")?,
            other: pod("shop/other", "c")?,
        };
        for pod in [&cast.client, &cast.fresh, &cast.server, &cast.other] {
            lab.await_captured(pod)?;
        }
        for pod in [&cast.stranger, &cast.store] {
            lab.await_excluded(pod)?;
            lab.await_peers_see(pod, "none")?;
        }
        for pod in [&cast.client, &cast.server, &cast.other] {
            lab.await_peers_tunnel(pod)?;
        }
        Ok(cast)
    }
}

/// Opens a conversation, and speaks both ways so that it is there from end to end.
fn converse(host: &Host, from: &Pod, to: IpAddr) -> Result<Conversation> {
    let both = host.converse(from, to)?;
    say(&both.client, &both.server, b"hello")?;
    say(&both.server, &both.client, b"well met")?;
    Ok(both)
}

#[test]
fn connections_to_a_vanished_node_are_reset_within_30_s() {
    const NAME: &str = "connections_to_a_vanished_node_are_reset_within_30_s";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").node("c").run(|lab| {
        let mut table = Table::new(NAME);
        let cast = Cast::start(lab)?;
        let (at_server, at_store) = (Host::start(&cast.server)?, Host::start(&cast.store)?);
        let at_client = Host::start(&cast.client)?;
        let _echoes = [
            programs::peer(&cast.other, "echo", PORT, &[])?,
            programs::peer(&cast.server, "echo", PORT, &[])?,
        ];
        let to_other = SocketAddr::new(cast.other.v4().into(), PORT);
        let to_server = SocketAddr::new(cast.server.v4().into(), PORT);
        let (server4, server6) = (cast.server.v4().into(), cast.server.v6().into());
        let (store4, store6) = (cast.store.v4().into(), cast.store.v6().into());

        // Through a tunnel: both ends are the mesh's.
        let idle = converse(&at_server, &cast.client, server4)?;
        let idle6 = converse(&at_server, &cast.client, server6)?;
        let upload = converse(&at_server, &cast.client, server4)?;
        let download = converse(&at_server, &cast.client, server4)?;
        let reverse = converse(&at_client, &cast.server, cast.client.v4().into())?;
        // To what is outside the mesh: left as dialled, neither end is.
        let outside =
            [converse(&at_store, &cast.client, store4)?, converse(&at_store, &cast.client, store6)?];
        // From outside the mesh, seen from the vanished node too: the server's end is.
        let in_idle = converse(&at_server, &cast.stranger, server4)?;
        let in_answer = converse(&at_server, &cast.stranger, server4)?;
        let in_here = converse(&at_client, &cast.store, cast.client.v4().into())?;
        let in_here_answer = converse(&at_client, &cast.store, cast.client.v4().into())?;
        // Beside them.
        let mut held = Held::open(&cast.client, to_other)?;
        held.ensure_mtls(lab.agent("a"))?;
        let load = Hammer::start(&cast.client, to_other, 50)?;

        let start = |name: &str, stream: TcpStream, doing| Watched::start(name, stream, doing);
        let mut watched = vec![
            start("tunnel, idle: client", idle.client, Doing::Waiting),
            start("tunnel, idle: server", idle.server, Doing::Waiting),
            start("tunnel, idle, IPv6: client", idle6.client, Doing::Waiting),
            start("tunnel, idle, IPv6: server", idle6.server, Doing::Waiting),
            start("tunnel, upload: client", upload.client, Doing::Writing),
            start("tunnel, upload: server", upload.server, Doing::Fetching),
            start("tunnel, download: client", download.client, Doing::Fetching),
            start("tunnel, download: server", download.server, Doing::Writing),
            start("tunnel from the vanished node, idle: client", reverse.client, Doing::Waiting),
            start("tunnel from the vanished node, idle: server", reverse.server, Doing::Waiting),
            start("plaintext in on the vanished node, idle: server", in_idle.server, Doing::Waiting),
            start("plaintext in on the vanished node, answering: server", in_answer.server, Doing::Writing),
            start("plaintext in, idle: server", in_here.server, Doing::Waiting),
            start("plaintext in, answering: server", in_here_answer.server, Doing::Writing),
        ];
        // Their other ends have no mesh: they are only held, or read.
        let _outside =
            [start("", in_answer.client, Doing::Fetching), start("", in_here_answer.client, Doing::Fetching)];
        let _held = (in_idle.client, in_here.client);

        let gone = vanish(&lab.node("b"))?;
        let since = gone.since;
        // On a tunnel that is there and dead, and where there was none.
        let on_pooled = cast.client.connect(to_server, Duration::from_secs(5))??;
        let on_fresh = cast.fresh.connect(to_server, Duration::from_secs(5))??;
        watched.push(start("a new connection on the dead tunnel: client", on_pooled, Doing::Waiting));
        watched.push(start("a new connection, no tunnel yet: client", on_fresh, Doing::Waiting));
        for one in watched {
            let name = one.name.clone();
            table.row(&name, || one.outcome(since));
        }
        table.row("who has no part in it notices nothing: 0 failed", || {
            held.speak()?;
            load.stop()?.none_failed()
        });
        table.row("the reason is counted: peer_silent for plaintext, tunnel_broken for tunnels", || {
            let a = lab.agent("a");
            let closed =
                |word: &str| meters::total(a, "weft_connections_closed_total", &format!("reason=\"{word}\""));
            let (silent, broken) = (closed("peer_silent")?, closed("tunnel_broken")?);
            ensure!(silent >= 2 && broken >= 5, "{silent} peer_silent, {broken} tunnel_broken");
            Ok(format!("on node a: {silent} peer_silent, {broken} tunnel_broken"))
        });
        gone.come_back()?;
        let back = Instant::now();
        table.row("what was left as dialled has outlived it, as it would without a mesh", || {
            for both in &outside {
                say(&both.client, &both.server, b"still there?")?;
                say(&both.server, &both.client, b"still here")?;
            }
            Ok(String::new())
        });
        table.row("the node is back: connections too, through a tunnel", || {
            let open = || Held::open(&cast.client, to_server).map_err(|error| format!("{error:#}"));
            eventually(BACK, open)?.ensure_mtls(lab.agent("a"))?;
            Ok(format!("after {:.1?}", back.elapsed()))
        });
        table.finish();
        Ok(())
    });
}
