//! Promise: an agent without a free descriptor refuses new connections with a RST, counts them, says so once a second,
//! and keeps the connections it has; with descriptors again it goes on by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exhaustion::cast::{Cast, PORT};
use exhaustion::held::Held;
use exhaustion::limits::Starved;
use exhaustion::seen;
use lab::row::Table;
use lab::{Lab, Pod};

const TEST: &str = "an_agent_without_descriptors_refuses_counts_and_recovers";
/// Descriptors that are left.
const ROOM: u64 = 20;
/// Descriptors that the agent held for a moment when they were counted: of the question for its metrics, say.
const PASSING: u64 = 5;
/// Connections that run, and those that are too many.
const RUNNING: usize = 50;
const TOO_MANY: usize = 100;
/// Twice what a connection waits for a descriptor, and the machine's share.
const CLEAR: Duration = Duration::from_secs(20);

#[test]
fn an_agent_without_descriptors_refuses_counts_and_recovers() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        let (v4, v6) = (IpAddr::from(cast.server.v4()), IpAddr::from(cast.server.v6()));
        for (row, starved, from, address) in [
            ("the client's agent, IPv4", "a", &cast.client, v4),
            ("the client's agent, IPv6", "a", &cast.client, v6),
            ("the server's agent, through a tunnel, IPv4", "b", &cast.client, v4),
            ("the server's agent, through a tunnel, IPv6", "b", &cast.client, v6),
            ("the server's agent, in plaintext", "b", &cast.stranger, v4),
        ] {
            table.row(row, || starves(lab, starved, from, SocketAddr::new(address, PORT)));
        }
        for (node, words) in [("a", "no descriptor left"), ("b", "reason=\"exhausted\"")] {
            table.row(&format!("the log of the agent on {node} names it"), || {
                let log = seen::log(lab, node)?;
                ensure!(log.contains(words), "no line with {words}");
                Ok(String::new())
            });
        }
        table.row("a pod that comes meanwhile is refused, and taken in later", || late_pod(lab, &cast));
        table.finish();
        Ok(())
    });
}

fn starves(lab: &Lab, node: &str, from: &Pod, to: SocketAddr) -> Result<String> {
    let agent = lab.agent(node);
    let mut running = Held::start(from, &[to], RUNNING)?;
    running.all_open(RUNNING)?;
    let (counted, written) = (seen::refused(agent, "exhausted")?, seen::log(lab, node)?.len());
    let start = Instant::now();
    let starved = Starved::leave(agent, ROOM)?;
    let mut more = Held::start(from, &[to], TOO_MANY)?;
    let report = more.report()?;
    let took = start.elapsed();
    let number = |key: &str| report[key].as_u64().with_context(|| report.to_string());
    let (ok, failed) = (number("ok")?, number("failed")?);
    ensure!(ok <= ROOM + PASSING && failed >= TOO_MANY as u64 - ROOM - PASSING, "{report}");
    // A clean error for each, in bounded time: the client's own limit is 20 s for each step.
    let reset = seen::resets(&report);
    ensure!(reset == failed, "{report}");
    ensure!(took < CLEAR, "it took {took:?}");
    drop(more);
    // What runs has gone on, and new ones find the descriptors that were given back.
    running.all_alive(RUNNING).context("connections that ran")?;
    let again = lab::eventually(CLEAR, || {
        let report = seen::burst(from, to, 1, 1, false).map_err(|error| format!("{error:#}"))?;
        if report["ok"] == 1 { Ok(()) } else { Err(report.to_string()) }
    });
    again.context("with descriptors that were given back")?;
    drop(starved);
    let refused = seen::refused(agent, "exhausted")? - counted;
    ensure!(refused >= failed, "{failed} failed, the agent counts {refused}");
    let log = seen::log(lab, node)?;
    let lines =
        log[written..].lines().filter(|line| line.contains("exhausted") || line.contains("cannot accept"));
    let (lines, most) = (lines.count() as u64, 4 * (start.elapsed().as_secs() + 2));
    // None, where the row before has had this second's line.
    ensure!(lines <= most, "{lines} lines about it in {:?}", start.elapsed());
    Ok(format!("{ok} taken, {failed} reset in {:.1} s, {refused} counted, {lines} lines", took.as_secs_f64()))
}

/// Six listeners a pod: with less than that it cannot be taken in.
fn late_pod(lab: &Lab, cast: &Cast) -> Result<String> {
    let starved = Starved::leave(lab.agent("a"), 0)?;
    let pod = lab.pod("shop/late").node("a").start()?;
    let to = SocketAddr::new(cast.server.v4().into(), PORT);
    let report = seen::burst(&pod, to, 1, 1, false)?;
    ensure!(report["by"]["connect:ECONNREFUSED"] == 1, "{report}");
    drop(starved);
    lab.await_captured(&pod)?;
    lab::eventually(CLEAR, || {
        let report = seen::burst(&pod, to, 1, 1, false).map_err(|error| format!("{error:#}"))?;
        if report["ok"] == 1 { Ok(()) } else { Err(report.to_string()) }
    })?;
    Ok(String::new())
}
