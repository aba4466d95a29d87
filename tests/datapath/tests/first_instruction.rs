//! Promise: a program that connects as its very first instruction is captured or refused, never leaked.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Lab, Pod, programs};
use serde_json::Value;

const PORT: u16 = 7000;
const PROGRAMS: usize = 1_000;
/// Launched at the same time.
const IN_FLIGHT: usize = 32;
/// Service accounts that they share: some have a certificate on the node already, some do not.
const ACCOUNTS: usize = 50;
/// For one program, which tries for half of it, every 20 ms. How soon it is in depends on the machine and on how many are
/// launched at once: that is told, not judged.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of all of them.
#[derive(Debug, Default)]
struct Tally {
    at_once: usize,
    after_refusal: usize,
    refusals: usize,
    longest: Duration,
    /// The first few of those that were neither.
    failures: Vec<String>,
    failed: usize,
}

impl Tally {
    fn add(&mut self, number: usize, outcome: Result<Seen>) {
        match outcome {
            Ok(seen) => {
                self.refusals += seen.refusals;
                self.longest = self.longest.max(seen.connected);
                *(if seen.refusals == 0 { &mut self.at_once } else { &mut self.after_refusal }) += 1;
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < 5 {
                    self.failures.push(format!("number {number}: {error:#}"));
                }
            }
        }
    }
}

/// What one program saw.
struct Seen {
    refusals: usize,
    connected: Duration,
}

#[test]
fn a_thousand_programs_connect_as_their_first_instruction() {
    if !lab::ready("a_thousand_programs_connect_as_their_first_instruction") {
        return;
    }
    Lab::builder().node("a").node("b").systemd_cgroups().run(|lab| {
        let mut table = Table::new("a_thousand_programs_connect_as_their_first_instruction");
        lab.namespace("shop").captured()?;
        let mut servers = Vec::new();
        for node in ["a", "b"] {
            let pod = lab.pod(&format!("shop/server-{node}")).node(node).service_account("server").start()?;
            programs::peer(&pod, "banner", PORT, &[]).map(|server| servers.push((pod, server)))?;
        }
        for (pod, _) in &servers {
            lab.await_captured(pod)?;
            lab.await_peers_tunnel(pod)?;
        }
        let pods: Vec<Arc<Pod>> = servers.iter().map(|(pod, _)| pod.clone()).collect();
        let wire = lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
        let start = Instant::now();
        let tally = launch_all(lab, &pods);
        let seconds = start.elapsed().as_secs_f64();
        let pcap = wire.stop()?;
        table.row(&format!("{PROGRAMS} programs are captured, at once or after a refusal"), || {
            let Tally { at_once, after_refusal, refusals, longest, failures, failed } = &tally;
            let counts = format!(
                "{at_once} captured at once, {after_refusal} refused first ({refusals} times) and captured after \
                 {:.0} ms at the latest, {failed} failed, in {seconds:.0} s",
                longest.as_secs_f64() * 1000.0
            );
            ensure!(*failed == 0 && at_once + after_refusal == PROGRAMS, "{counts}: {}", failures.join("; "));
            Ok(counts)
        });
        table.row("0 of them dialled in plaintext", || {
            let mut syns = 0;
            for address in pods.iter().flat_map(|pod| pod.addresses()) {
                syns += pcap.plaintext_syns_to(address, PORT);
            }
            ensure!(syns == 0 && pcap.segments().is_empty(), "{syns} SYNs of {} packets", pcap.packets());
            Ok(format!("{syns} SYNs in plaintext on the wire"))
        });
        table.finish();
        Ok(())
    });
}

fn launch_all(lab: &Lab, servers: &[Arc<Pod>]) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= PROGRAMS {
                return;
            }
            let outcome = launch(lab, servers, number);
            tally.lock().unwrap_or_else(PoisonError::into_inner).add(number, outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(worker);
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One program on one node, dialling the server on the other.
fn launch(lab: &Lab, servers: &[Arc<Pod>], number: usize) -> Result<Seen> {
    let here = number % servers.len();
    let server = &servers[(here + 1) % servers.len()];
    let address: IpAddr = if number % 4 < 2 { server.v4().into() } else { server.v6().into() };
    let to = SocketAddr::new(address, PORT).to_string();
    let scheduled = lab
        .pod(&format!("shop/first-{number}"))
        .node(servers[here].node().name())
        .service_account(&format!("account-{}", number % ACCOUNTS))
        .schedule()?;
    // How long the API has known the pod when it starts: 0 to 500 ms, spread evenly whatever the order.
    thread::sleep(Duration::from_millis((number * 211 % 501) as u64));
    let (pod, process) = scheduled.launch(["weft-lab-peer", "first-instruction", &to, "30"])?;
    let output = process.wait(PATIENCE)?.ok()?;
    pod.delete().with_context(|| format!("take {} away", pod.key()))?;
    let seen: Value = output.json()?;
    ensure!(seen["connected"] == true && seen["end"] == "line", "{seen}");
    ensure!(seen["peer"] == to.as_str(), "its peer is {}, it dialled {to}", seen["peer"]);
    let connected = Duration::from_micros(seen["connected_us"].as_u64().context("a time")?);
    let refusals = seen["refusals"].as_array().context("refusals")?;
    let other = refusals.iter().find(|refusal| refusal["errno"] != "ECONNREFUSED");
    ensure!(other.is_none(), "refused with {}", other.unwrap_or(&Value::Null));
    Ok(Seen { refusals: refusals.len(), connected })
}
