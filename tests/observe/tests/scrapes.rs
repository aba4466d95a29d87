//! Promise: whoever scrapes, however many, however slowly and whatever they send, an agent goes on answering others and
//! carrying connections, and holds no more memory than it may.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::row::Table;
use lab::{Agent, Lab, eventually};
use observe::stage::{Stage, talk};

/// Where agents serve metrics.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
/// Within this half of the others are answered, and each of them within that, on a machine that tests share.
const BOUND: Duration = Duration::from_secs(3);
const AT_MOST: Duration = Duration::from_secs(20);
/// How long each kind of scraper goes on.
const SPAN: Duration = Duration::from_secs(6);
/// How long a client may take to send a request, by the documentation of the server, and some.
const HUNG_UP: Duration = Duration::from_secs(45);
const PARALLEL: usize = 64;
/// The server holds 256 connections at once; who comes then takes the place of the one that has done nothing for longest.
const SLOW: usize = 400;
/// What an agent's memory may grow by.
const GROWTH: u64 = 48 << 20;
const WHOLE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const AGAIN: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
const HALF: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow: ";

/// What an agent holds.
#[derive(Clone, Copy, Debug)]
struct Holding {
    memory: u64,
    descriptors: usize,
}

impl Holding {
    fn of(agent: &Agent) -> Result<Self> {
        let pid = agent.pid().context("the agent does not run")?;
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { memory: kib << 10, descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() })
    }

    /// By how much it has grown, in words, if that is within the bound.
    fn grown(self, agent: &Agent) -> Result<String> {
        let grown = Self::of(agent)?.memory.saturating_sub(self.memory);
        ensure!(grown <= GROWTH, "its memory has grown by {} KiB", grown >> 10);
        Ok(format!("{} KiB more", grown >> 10))
    }
}

/// One scrape; how long it took.
fn scrape() -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(AT_MOST))?;
    stream.write_all(WHOLE)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("weft_build_info"), "{answer:.200}");
    Ok(began.elapsed())
}

/// Runs so many clients in the agent's namespace, each again and again; meanwhile others scrape, ask the admin socket and
/// talk on every way. What was the slowest scrape of these, and how many rounds the clients made.
fn meanwhile(
    stage: &Stage<'_>,
    clients: usize,
    client: impl Fn() -> Result<()> + Sync,
) -> Result<(Duration, usize)> {
    let agent = stage.lab.agent("a");
    let (stop, rounds) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let (pod, client) = (agent.pod(), &client);
    std::thread::scope(|scope| {
        let crowd = scope.spawn(move || {
            pod.netns_thread(move || {
                std::thread::scope(move |inside| {
                    let clients: Vec<_> = (0..clients)
                        .map(|_| {
                            inside.spawn(move || {
                                while !stop.load(Ordering::Relaxed) {
                                    client()?;
                                    rounds.fetch_add(1, Ordering::Relaxed);
                                }
                                anyhow::Ok(())
                            })
                        })
                        .collect();
                    clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
                })
            })?
        });
        let others = || -> Result<Duration> {
            let (began, mut scrapes, mut asked) = (Instant::now(), Vec::new(), Vec::new());
            while began.elapsed() < SPAN {
                scrapes.push(pod.netns_thread(scrape)??);
                let start = Instant::now();
                agent.status()?;
                asked.push(start.elapsed());
                for way in stage.ways() {
                    talk(&way.from, &way.to, 1).context(way.name)?;
                }
            }
            let mut slowest = Duration::ZERO;
            for times in [&mut scrapes, &mut asked] {
                times.sort_unstable();
                let median = times[times.len() / 2];
                ensure!(median <= BOUND, "half of them waited for {median:?} and longer");
                slowest = slowest.max(times[times.len() - 1]);
            }
            ensure!(slowest <= AT_MOST, "somebody waited for {slowest:?}");
            Ok(slowest)
        };
        let slowest = others();
        stop.store(true, Ordering::Relaxed);
        crowd.join().expect("no panic")?;
        Ok((slowest?, rounds.load(Ordering::Relaxed)))
    })
}

#[test]
fn scrapers_of_every_kind_are_borne() {
    const NAME: &str = "scrapers_of_every_kind_are_borne";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        let agent = lab.agent("a");
        // What is allocated once is there.
        meanwhile(&stage, 8, || scrape().map(drop))?;
        let before = Holding::of(agent)?;
        table.row(&format!("{PARALLEL} at once"), || {
            let (slowest, rounds) = meanwhile(&stage, PARALLEL, || scrape().map(drop))?;
            ensure!(rounds >= PARALLEL, "{rounds} scrapes");
            Ok(format!("{rounds} scrapes, the slowest other {slowest:?}, {}", before.grown(agent)?))
        });
        table.row(&format!("{SLOW} that send half a request, and then a byte a second"), || {
            let (slowest, _) = meanwhile(&stage, SLOW, || {
                let mut stream = TcpStream::connect(METRICS)?;
                stream.write_all(HALF)?;
                // It may have to make room.
                let _cut = (0..SPAN.as_secs()).try_for_each(|_| {
                    std::thread::sleep(Duration::from_secs(1));
                    stream.write_all(b"x")
                });
                Ok(())
            })?;
            Ok(format!("the slowest other {slowest:?}, {}", before.grown(agent)?))
        });
        table.row(&format!("{SLOW} that read a byte a second"), || {
            let (slowest, _) = meanwhile(&stage, SLOW, || {
                let mut stream = TcpStream::connect(METRICS)?;
                stream.write_all(WHOLE)?;
                let mut byte = [0];
                let _cut = (0..SPAN.as_secs()).try_for_each(|_| {
                    std::thread::sleep(Duration::from_secs(1));
                    stream.read_exact(&mut byte)
                });
                Ok(())
            })?;
            Ok(format!("the slowest other {slowest:?}, {}", before.grown(agent)?))
        });
        table.row(&format!("{PARALLEL} that ask again and again and read nothing"), || {
            let (slowest, _) = meanwhile(&stage, PARALLEL, || {
                let mut stream = TcpStream::connect(METRICS)?;
                stream.set_write_timeout(Some(Duration::from_secs(1)))?;
                // Until its own buffers are full, or it is cut.
                let _full = (0..10_000).try_for_each(|_| stream.write_all(AGAIN));
                std::thread::sleep(Duration::from_secs(1));
                Ok(())
            })?;
            Ok(format!("the slowest other {slowest:?}, {}", before.grown(agent)?))
        });
        table.row("garbage, too much, and nothing", || {
            let long =
                [b"GET /metrics?".to_vec(), vec![b'x'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat();
            let many = [b"GET /metrics HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(50_000), b"\r\n".to_vec()]
                .concat();
            let tls = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3].repeat(40);
            let body = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nxxxx".to_vec();
            let next = AtomicUsize::new(0);
            let kinds = [long, many, tls, body, vec![0; 70_000], b"\r\n\r\n".repeat(99), Vec::new()];
            let (slowest, rounds) = meanwhile(&stage, 16, || {
                let kind = &kinds[next.fetch_add(1, Ordering::Relaxed) % kinds.len()];
                let mut stream = TcpStream::connect(METRICS)?;
                stream.set_read_timeout(Some(Duration::from_millis(300)))?;
                // It may hang up in between.
                let _written = stream.write_all(kind);
                let mut answer = Vec::new();
                let _read = stream.read_to_end(&mut answer);
                let text = String::from_utf8_lossy(&answer);
                ensure!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "{text:.100}");
                Ok(())
            })?;
            Ok(format!("{rounds} of them, the slowest other {slowest:?}, {}", before.grown(agent)?))
        });
        table.row("who never sends the rest is hung up on, and leaves nothing behind", || {
            let waited = agent.pod().netns_thread(|| -> Result<Duration> {
                let mut stream = TcpStream::connect(METRICS)?;
                stream.set_read_timeout(Some(HUNG_UP))?;
                stream.write_all(HALF)?;
                let (began, mut rest) = (Instant::now(), Vec::new());
                stream.read_to_end(&mut rest).context("it was not hung up on")?;
                Ok(began.elapsed())
            })??;
            eventually(SPAN, || {
                let now = Holding::of(agent).map_err(|error| format!("{error:#}"))?;
                let few = now.descriptors <= before.descriptors + 16;
                if few {
                    Ok(())
                } else {
                    Err(format!("{} descriptors, {}", now.descriptors, before.descriptors))
                }
            })?;
            Ok(format!("after {waited:?}, {}", before.grown(agent)?))
        });
        table.finish();
        Ok(())
    });
}
