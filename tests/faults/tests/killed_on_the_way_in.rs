//! Fault: the agent is killed (SIGKILL) while it takes a pod in, after every step of it. Promise: not one SYN of the pod is
//! on the wire in plain text, the next agent takes the pod in, and nothing of the half-done work stays.
//!
//! The steps are seen from outside, in the pinned maps; whoever watches them kills as soon as one is there. Beside that the
//! agent is killed after growing times.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::held::Held;
use faults::pins::{Counts, Pins, Watching, cookie};
use lab::row::Table;
use lab::{Lab, Pod, eventually, programs};

const PORT: u16 = 7000;
/// How long a step may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the next agent may take to clear up.
const CLEAR: Duration = Duration::from_secs(10);

/// A step of taking a pod in, by what more there is in the maps once it is done.
struct Step {
    name: &'static str,
    is_done: fn(now: &Counts, before: &Counts) -> bool,
}

/// In the order in which they are taken.
static STEPS: [Step; 9] = [
    Step { name: "its cgroup is pending", is_done: |now, old| now.cgroups > old.cgroups },
    Step { name: "its namespace is pending", is_done: |now, old| now.pods > old.pods },
    Step { name: "the first listener", is_done: |now, old| now.listeners > old.listeners },
    Step { name: "the third listener", is_done: |now, old| now.listeners > old.listeners + 2 },
    Step { name: "all listeners", is_done: |now, old| now.listeners > old.listeners + 5 },
    Step { name: "sk_lookup", is_done: |now, old| now.lookups > old.lookups },
    Step { name: "its addresses", is_done: |now, old| now.addresses > old.addresses + 1 },
    Step { name: "its namespace is captured", is_done: |now, old| now.captured_pods > old.captured_pods },
    Step { name: "its cgroup is captured", is_done: |now, old| now.captured_cgroups > old.captured_cgroups },
];

/// When the agent is killed.
#[derive(Clone, Copy)]
enum Moment {
    /// As soon as this step is seen.
    Step(usize),
    /// So long after the pod's first process was started.
    After(Duration),
}

/// How far the dead agent had got.
fn reached(now: &Counts, before: &Counts) -> &'static str {
    // Listeners die with the agent.
    let kept = [8, 7, 6, 5, 1, 0];
    kept.into_iter()
        .find(|step| (STEPS[*step].is_done)(now, before))
        .map_or("nothing yet", |step| STEPS[step].name)
}

struct Stage<'a> {
    lab: &'a Lab,
    pins: Pins,
    /// Captured, on the other node, with an echo server.
    to: SocketAddr,
    server: &'a Pod,
    rounds: usize,
}

impl Stage<'_> {
    /// One pod, one death. How far the agent had got.
    fn round(&mut self, moment: Moment) -> Result<&'static str> {
        self.rounds += 1;
        let agent = self.lab.agent("a");
        let before = self.pins.counts()?;
        // Every other one has an identity of its own, whose certificate is one more thing to wait for.
        let account =
            if self.rounds.is_multiple_of(2) { "default".into() } else { format!("born-{}", self.rounds) };
        let builder = self.lab.pod(&format!("shop/born-{}", self.rounds)).node("a");
        let scheduled = builder.service_account(&account).schedule()?;
        let to = self.to.to_string();
        let line = ["weft-lab-peer", "hammer", "--to", &to, "--rate", "200", "--seconds", "600"];
        let (pod, _process) = std::thread::scope(|scope| -> Result<_> {
            let (started, starting) = std::sync::mpsc::channel::<()>();
            let watching = Watching::new(&self.pins)?;
            let killer = scope.spawn(move || -> Result<()> {
                match moment {
                    Moment::Step(step) => {
                        let start = Instant::now();
                        while !(STEPS[step].is_done)(&watching.counts()?, &before) {
                            ensure!(start.elapsed() < PATIENCE, "{} never came", STEPS[step].name);
                        }
                    }
                    Moment::After(offset) => {
                        // Its failure is the launch's own.
                        let _ = starting.recv();
                        std::thread::sleep(offset);
                    }
                }
                agent.kill();
                Ok(())
            });
            let launched = scheduled.launch(line);
            drop(started);
            killer.join().ok().context("the killer panicked")??;
            launched
        })?;
        let state = reached(&self.pins.counts()?, &before);
        ensure!(
            pod.listening_ports()?.is_empty(),
            "listeners outlive the agent: {:?}",
            pod.listening_ports()?
        );
        agent.start()?;
        self.lab.await_captured(&pod)?;
        self.pins.ensure_captured(&pod)?;
        Held::open(&pod, self.to)?.ensure_mtls(agent)?;
        let ports = pod.listening_ports()?;
        ensure!(ports == [15001, 15006, 15008], "listeners: {ports:?}");
        let (cookie, id, addresses) = (cookie(&pod)?, pod.cgroup().id()?, pod.addresses());
        pod.delete()?;
        eventually(CLEAR, || self.pins.ensure_gone(cookie, id, &addresses))?;
        let left = self.pins.counts()?;
        ensure!(left == before, "before {before:?}, after {left:?}");
        Ok(state)
    }

    /// Several, and how far they got.
    fn rounds(&mut self, moments: &[Moment]) -> Result<String> {
        let wire = self.lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
        let mut states: BTreeMap<&str, u32> = BTreeMap::new();
        let outcome = moments.iter().try_for_each(|moment| -> Result<()> {
            let state = self.round(*moment).with_context(|| format!("pod number {}", self.rounds))?;
            *states.entry(state).or_default() += 1;
            Ok(())
        });
        let pcap = wire.stop()?;
        outcome?;
        for address in self.server.addresses() {
            let syns = pcap.plaintext_syns_to(address, PORT);
            ensure!(syns == 0, "{syns} SYNs in plain text to {address}");
        }
        let words: Vec<String> = states.iter().map(|(state, count)| format!("{count}x {state}")).collect();
        Ok(format!("{} deaths at: {}; 0 SYNs in plain text", moments.len(), words.join(", ")))
    }
}

#[test]
fn an_agent_that_dies_on_a_pods_way_in_leaves_nothing_behind() {
    const NAME: &str = "an_agent_that_dies_on_a_pods_way_in_leaves_nothing_behind";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let server = lab.pod("shop/server").node("b").start()?;
        let _echo = programs::peer(&server, "echo", PORT, &[])?;
        lab.await_captured(&server)?;
        lab.await_peers_tunnel(&server)?;
        let to = SocketAddr::new(server.v4().into(), PORT);
        let mut stage = Stage { lab, pins: Pins::of(lab, "a"), to, server: &server, rounds: 0 };
        for (number, step) in STEPS.iter().enumerate() {
            table.row(&format!("killed once this is seen: {}", step.name), || {
                stage.rounds(&[Moment::Step(number); 2])
            });
        }
        for first in [0, 1, 2] {
            let offsets: Vec<Moment> =
                (0..9).map(|n| Moment::After(Duration::from_millis(2 + (first + 3 * n) * 2))).collect();
            table.row(&format!("killed after {} to {} ms", 2 + first * 2, 2 + (first + 24) * 2), || {
                stage.rounds(&offsets)
            });
        }
        table.finish();
        Ok(())
    });
}

/// Nothing says that there ever was a captured pod.
fn ensure_none(pins: &Pins) -> Result<()> {
    let left = (pins.lookups()?, pins.owners()?, pins.listeners()?.keys().flatten().count());
    ensure!(left.0.is_empty() && left.1.is_empty() && left.2 == 0, "left: {left:?}");
    Ok(())
}

#[test]
fn a_label_that_goes_while_no_agent_is_there_is_followed() {
    const NAME: &str = "a_label_that_goes_while_no_agent_is_there_is_followed";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        lab.namespace("shop").captured()?;
        let pod = lab.pod("shop/pod").node("a").start()?;
        let stranger = lab.pod("yard/stranger").node("b").start()?;
        let echoes =
            [programs::peer(&pod, "echo", PORT, &[])?, programs::peer(&stranger, "echo", PORT, &[])?];
        lab.await_captured(&pod)?;
        lab.await_excluded(&stranger)?;
        let pins = Pins::of(lab, "a");
        table.row("taken out meanwhile: it is as if there had never been a mesh", || {
            lab.agent("a").kill();
            lab.namespace("shop").released()?;
            lab.agent("a").start()?;
            lab.await_excluded(&pod)?;
            // The agent may have known it as captured from its cache, and goes on listening until the peers know better.
            eventually(CLEAR, || ensure_none(&pins).map_err(|error| format!("{error:#}")))?;
            let ends = [(&stranger, &pod), (&pod, &stranger)];
            for (from, to) in ends {
                for address in to.addresses() {
                    let open = || {
                        Held::open(from, SocketAddr::new(address, PORT)).map_err(|error| format!("{error:#}"))
                    };
                    let held = eventually(CLEAR, open)?;
                    lab.agents().iter().try_for_each(|agent| held.ensure_untouched(agent))?;
                }
            }
            Ok(String::new())
        });
        table.row("put in meanwhile: captured", || {
            lab.agent("a").kill();
            lab.namespace("shop").captured()?;
            lab.agent("a").start()?;
            lab.await_captured(&pod)?;
            pins.ensure_captured(&pod)?;
            Ok(String::new())
        });
        drop(echoes);
        table.finish();
        Ok(())
    });
}
