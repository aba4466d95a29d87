//! Promise: an agent that starts with the controller gone serves from the node's disk at once, says how old that is, and
//! follows the controller when it is back. What is on the disk is believed whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datapath::held::Held;
use datapath::kept;
use lab::row::Table;
use lab::{Agent, Lab, Pod, eventually, programs};

const PORT: u16 = 7000;
const STEP: Duration = Duration::from_secs(5);
/// An agent with a cache carries connections so soon after its start.
const BACK: Duration = Duration::from_secs(15);
const TRIES: usize = 10;

/// Two captured pods on two nodes, everything about them on both disks.
struct Shop {
    client: Arc<Pod>,
    web: Arc<Pod>,
    outside: Arc<Pod>,
    _servers: Vec<programs::Server>,
}

impl Shop {
    fn open(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").start()?;
        let outside = lab.pod("plain/client").node("a").start()?;
        let mut servers = Vec::new();
        for pod in [&client, &web, &outside] {
            servers.push(programs::peer(pod, "echo", PORT, &[])?);
        }
        for pod in [&client, &web] {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        lab.await_excluded(&outside)?;
        for agent in lab.agents() {
            kept::await_tunnel(agent, &client)?;
            kept::await_tunnel(agent, &web)?;
            kept::await_known(agent, &outside, true)?;
        }
        Ok(Self { client, web, outside, _servers: servers })
    }

    /// Both ways across nodes: each agent is client once and server once.
    fn both_ways(&self, lab: &Lab) -> Result<()> {
        for (from, to, agent) in [(&self.client, &self.web, "a"), (&self.web, &self.client, "b")] {
            eventually(BACK, || Held::open(from, at(to)).map_err(|error| format!("{error:#}")))?
                .ensure_mtls(lab.agent(agent))?;
        }
        Ok(())
    }
}

fn at(pod: &Pod) -> SocketAddr {
    SocketAddr::new(pod.v4().into(), PORT)
}

/// All tries are refused by connect(2) itself.
fn refused(pod: &Pod, to: SocketAddr) -> Result<()> {
    for number in 0..TRIES {
        match pod.connect(to, STEP)? {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => bail!("try {number} from {} to {to}: {other:?}", pod.key()),
        }
    }
    Ok(())
}

/// How old its world says to be, where it is from the disk.
fn age(agent: &Agent) -> Result<Option<u64>> {
    Ok(agent.status()?["world"]["cached_seconds"].as_u64())
}

/// Waits until the controller has told it everything.
fn await_told(agent: &Agent) -> Result<()> {
    eventually(BACK, || {
        let status = agent.status().map_err(|error| format!("{error:#}"))?;
        let told = status["controller"]["connected"] == true
            && status["world"]["complete"] == true
            && status["world"]["cached_seconds"].is_null();
        if told { Ok(()) } else { Err(format!("{} {}", status["controller"], status["world"])) }
    })
}

fn log(lab: &Lab, agent: &Agent) -> String {
    let path = lab.place().logs().join(format!("agent-{}.log", agent.node()));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Puts the file's time back, as if the controller had last been heard of so long ago.
fn make_old(agent: &Agent, by: Duration) -> Result<()> {
    let file = std::fs::File::options().write(true).open(kept::file(agent))?;
    Ok(file.set_modified(std::time::SystemTime::now() - by)?)
}

#[test]
fn agents_serve_from_the_cache_without_a_controller() {
    if !lab::ready("agents_serve_from_the_cache_without_a_controller") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("agents_serve_from_the_cache_without_a_controller");
        let shop = Shop::open(lab)?;
        table.row("the file is its owner's alone", || {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| std::fs::metadata(path).map(|it| it.permissions().mode() & 0o7777);
            let modes = (mode(lab.agent("a").cache_dir())?, mode(&kept::file(lab.agent("a")))?);
            ensure!(modes == (0o700, 0o600), "{:o} {:o}", modes.0, modes.1);
            Ok(String::new())
        });
        lab.controller().kill();
        for (how, killed) in [("SIGTERM", false), ("SIGKILL", true)] {
            table.row(&format!("{how}: both agents are back and carry both ways through tunnels"), || {
                for agent in lab.agents() {
                    if killed {
                        agent.kill();
                    } else {
                        agent.stop(BACK)?;
                    }
                    make_old(agent, Duration::from_secs(7_200))?;
                }
                let start = Instant::now();
                lab.agents().iter().try_for_each(|agent| agent.launch())?;
                shop.both_ways(lab)?;
                Ok(format!("{:.1?} after the start", start.elapsed()))
            });
            table.row(&format!("{how}: nobody was asked for a certificate"), || {
                for agent in lab.agents() {
                    let (status, certs) = (agent.status()?, agent.certs()?);
                    ensure!(status["controller"]["connected"] == false, "{}", status["controller"]);
                    ensure!(!certs.is_empty() && certs.iter().all(|it| it["state"] == "valid"), "{certs:?}");
                }
                lab.await_captured(&shop.client)?;
                lab.await_captured(&shop.web)?;
                Ok(String::new())
            });
            table.row(&format!("{how}: status, metric and log say how old the world is"), || {
                for agent in lab.agents() {
                    let old = age(agent)?.context("the status says no age")?;
                    ensure!((7_200..7_300).contains(&old), "{old} s");
                    let metrics = agent.metrics()?;
                    let line = metrics.lines().find(|line| line.starts_with("weft_world_cache_age_seconds "));
                    let told: u64 =
                        line.and_then(|it| it.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
                    ensure!(told >= 7_200, "{line:?}");
                    let text = log(lab, agent);
                    ensure!(text.contains("serving from this node's cache"), "{text}");
                }
                Ok(String::new())
            });
        }
        table.row("a pod outside the mesh is left alone", || {
            lab.await_excluded(&shop.outside)?;
            Held::open(&shop.outside, at(&shop.client))?;
            Ok(String::new())
        });
        let late = lab.pod("shop/late").node("a").service_account("client").start()?;
        let _pause = late.spawn(["weft-lab-peer", "pause"])?;
        table.row("a pod that the cache does not know is unknown and refused", || {
            lab.await_state(&late, "unknown")?;
            refused(&late, at(&shop.web))?;
            refused(&late, at(&shop.outside))?;
            Ok(format!("{TRIES} of {TRIES} ECONNREFUSED to each"))
        });
        table.row("the controller is back: the age is over, and the pod is taken in", || {
            lab.controller().start()?;
            lab.agents().iter().try_for_each(await_told)?;
            lab.await_captured(&late)?;
            Held::open(&late, at(&shop.web))?.ensure_mtls(lab.agent("a"))?;
            ensure!(lab.agent("a").metrics()?.contains("weft_world_cache_age_seconds 0"), "the metric");
            shop.both_ways(lab)?;
            Ok(String::new())
        });
        table.row("what is new is kept: known to the next process without the controller", || {
            kept::await_tunnel(lab.agent("a"), &late)?;
            lab.controller().kill();
            lab.agent("a").kill();
            lab.agent("a").launch()?;
            eventually(BACK, || Held::open(&late, at(&shop.web)).map_err(|error| format!("{error:#}")))?
                .ensure_mtls(lab.agent("a"))?;
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}

/// Ways in which a file is no world of this node's.
fn spoilt(lab: &Lab, good: &[u8]) -> Result<Vec<(&'static str, Vec<u8>, &'static str)>> {
    let changed = |position: usize| {
        let mut bytes = good.to_vec();
        bytes[position] ^= 0x20;
        bytes
    };
    let mut older = good.to_vec();
    older[12..16].copy_from_slice(&0_u32.to_be_bytes());
    let another = std::fs::read(kept::file(lab.agent("b")))?;
    Ok(vec![
        ("empty", Vec::new(), "does not begin as one"),
        ("something else", b"{\"kind\": \"List\"}".to_vec(), "does not begin as one"),
        ("cut off in the middle", good[..good.len() / 2].to_vec(), "checksum"),
        ("without its last byte", good[..good.len() - 1].to_vec(), "checksum"),
        ("with one bit changed", changed(good.len() / 2), "checksum"),
        ("with another checksum", changed(good.len() - 1), "checksum"),
        ("of an older version", older, "format 0"),
        ("of another node", another, "node b's"),
    ])
}

#[test]
fn a_cache_that_is_not_whole_is_ignored() {
    if !lab::ready("a_cache_that_is_not_whole_is_ignored") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_cache_that_is_not_whole_is_ignored");
        let shop = Shop::open(lab)?;
        let agent = lab.agent("a");
        lab.controller().kill();
        agent.stop(BACK)?;
        let good = std::fs::read(kept::file(agent))?;
        let mut told = log(lab, agent).matches("ignoring this node's cache").count();
        for (what, bytes, why) in spoilt(lab, &good)? {
            table.row(&format!("{what}: nothing of it counts, and one warning says why"), || {
                std::fs::write(kept::file(agent), &bytes)?;
                agent.launch()?;
                eventually(BACK, || match agent.pods() {
                    Ok(pods) if pods.iter().any(|row| row["uid"] == shop.client.uid()) => Ok(()),
                    other => Err(format!("{other:?}")),
                })?;
                let status = agent.status()?;
                ensure!(status["world"]["complete"] == false, "{}", status["world"]);
                ensure!(status["world"]["workloads"] == 0, "half of it was loaded: {}", status["world"]);
                ensure!(status["world"]["cached_seconds"].is_null(), "{}", status["world"]);
                refused(&shop.client, at(&shop.web))?;
                agent.stop(BACK)?;
                let text = log(lab, agent);
                let warnings: Vec<_> =
                    text.lines().filter(|it| it.contains("ignoring this node's cache")).collect();
                ensure!(warnings.len() == told + 1, "{} warnings before, {} now", told, warnings.len());
                told += 1;
                let last = warnings.last().copied().unwrap_or_default();
                ensure!(last.contains(why), "{last}");
                ensure!(std::fs::read(kept::file(agent))? == bytes, "it was written without a controller");
                Ok(format!("{TRIES} of {TRIES} refused"))
            });
        }
        table.row("the controller is back: the world is told, and the file is good again", || {
            agent.launch()?;
            lab.controller().start()?;
            await_told(agent)?;
            shop.both_ways(lab)?;
            kept::await_tunnel(agent, &shop.web)?;
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn a_cache_that_is_out_of_date_is_put_right_by_the_controller() {
    if !lab::ready("a_cache_that_is_out_of_date_is_put_right_by_the_controller") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("a_cache_that_is_out_of_date_is_put_right_by_the_controller");
        let shop = Shop::open(lab)?;
        // One that will be gone, one that will have left the mesh, one that will have come.
        let gone = lab.pod("shop/gone").node("b").service_account("gone").start()?;
        let left = lab.pod("shop/left").node("a").service_account("left").start()?;
        let _pause = left.spawn(["weft-lab-peer", "pause"])?;
        lab.await_captured(&left)?;
        lab.await_captured(&gone)?;
        let address = gone.v4();
        let agent = lab.agent("a");
        for pod in [&gone, &left] {
            kept::await_tunnel(agent, pod)?;
        }
        lab.controller().kill();
        agent.kill();
        gone.delete()?;
        left.set_label("weft.dev/capture", Some("disabled"))?;
        // Another identity at the address that the cache knows as somebody else's.
        let moved = lab.pod("shop/moved").node("b").service_account("moved").addresses_of(&gone).start()?;
        let _server = programs::peer(&moved, "echo", PORT, &[])?;
        ensure!(moved.v4() == address, "{} is not {address}", moved.v4());
        agent.launch()?;
        table.row("without the controller what was known is served", || {
            eventually(BACK, || {
                Held::open(&shop.client, at(&shop.web)).map_err(|error| format!("{error:#}"))
            })?
            .ensure_mtls(agent)?;
            lab.await_captured(&left)?;
            Ok(String::new())
        });
        table.row("an address that is another pod's by now is never spoken to as the one it was", || {
            let wire = lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
            for _ in 0..TRIES {
                if let Ok(held) = Held::open(&shop.client, at(&moved)) {
                    bail!("{} was answered", held.client);
                }
            }
            let syns = wire.stop()?.segments().iter().filter(|segment| segment.is_syn()).count();
            ensure!(syns == 0, "{syns} SYNs in plaintext");
            Ok(format!("{TRIES} of {TRIES} refused or reset, 0 SYNs in plaintext"))
        });
        table.row("the controller is back: gone, left and moved are as they are", || {
            lab.controller().start()?;
            let start = Instant::now();
            lab.agents().iter().try_for_each(await_told)?;
            lab.await_excluded(&left)?;
            lab.await_captured(&moved)?;
            lab.await_peers_tunnel(&moved)?;
            eventually(BACK, || Held::open(&shop.client, at(&moved)).map_err(|error| format!("{error:#}")))?
                .ensure_mtls(agent)?;
            eventually(BACK, || {
                let known = agent.workloads().map_err(|error| format!("{error:#}"))?;
                let stale = known.iter().find(|row| row["uid"] == gone.uid());
                stale.map_or(Ok(()), |row| Err(row.to_string()))
            })?;
            Ok(format!("{:.1?} after its start", start.elapsed()))
        });
        table.row("and so they are on the disk", || {
            kept::await_known(agent, &gone, false)?;
            kept::await_tunnel(agent, &moved)?;
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}
