//! Fault: somebody with root takes away, or changes, what the agent has put into the kernel. Promise: within 30 s it is
//! back, counted and logged; meanwhile connections are refused or go through the mesh, as far as anything is left to see to
//! that (a connect hook that is detached cannot refuse: it is looked at every second).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datapath::cast::Cast;
use datapath::held::Held;
use faults::pins::{Pins, addr, cookie};
use faults::{links, meters};
use lab::row::Table;
use lab::{Agent, Lab, Pod, eventually, programs};
use mesh_common::{AddrEntry, CgroupEntry, ListenerKey, PodEntry, Settings, programs as hooks};

const PORT: u16 = 7000;
/// The promise, and what a look takes on a machine with other things to do.
const BOUND: Duration = Duration::from_secs(35);
/// The same for the node's hooks, which are looked at every second.
const HOOKS: Duration = Duration::from_secs(10);

/// The node that is tampered with.
struct Node<'a> {
    lab: &'a Lab,
    agent: &'a Agent,
    pins: Pins,
    /// Captured pods on it and on the other node, each with an echo server.
    near: &'a Pod,
    far: &'a Pod,
}

impl Node<'_> {
    /// Does something, waits until it is undone and counted, and sees that the pods talk as before.
    fn repaired(
        &self,
        what: &str,
        bound: Duration,
        tamper: impl FnOnce() -> Result<()>,
        is_right: impl Fn() -> Result<()>,
    ) -> Result<String> {
        let before = meters::repairs(self.agent, what)?;
        tamper()?;
        let start = Instant::now();
        let counted = eventually(bound, || {
            is_right().map_err(|error| format!("{error:#}"))?;
            let now = meters::repairs(self.agent, what).map_err(|error| format!("{error:#}"))?;
            if now > before { Ok(now - before) } else { Err(format!("{what}: {now} repairs counted")) }
        })?;
        let after = start.elapsed();
        self.as_before()?;
        Ok(format!("{counted} counted, after {after:.1?}"))
    }

    /// Connections go through a tunnel in both directions, and everything is in its place.
    fn as_before(&self) -> Result<()> {
        self.pins.ensure_captured(self.near)?;
        let tunnels = [(self.near, self.far), (self.far, self.near)];
        for (from, to) in tunnels {
            for address in to.addresses() {
                Held::open(from, SocketAddr::new(address, PORT))?.ensure_mtls(self.agent)?;
            }
        }
        Ok(())
    }

    /// Dials the far pod until `done`: whatever comes of it, no SYN is on the wire in plain text.
    fn nothing_in_plaintext<T>(&self, meanwhile: impl FnOnce() -> Result<T>) -> Result<T> {
        let wire = self.lab.capture_wire_with("b", &format!("tcp port {PORT}"), 128)?;
        let to = SocketAddr::new(self.far.v4().into(), PORT);
        let near = self.near;
        let outcome = std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let dialling = scope.spawn(move || -> Result<u32> {
                let mut dialled = 0;
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    let _refused_or_not = near.connect(to, Duration::from_secs(2))?;
                    dialled += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(dialled)
            });
            let outcome = meanwhile();
            drop(stop);
            let dialled = dialling.join().ok().context("the dialler panicked")??;
            ensure!(dialled > 0, "nothing was dialled");
            outcome
        });
        let pcap = wire.stop()?;
        let outcome = outcome?;
        let syns = pcap.plaintext_syns_to(to.ip(), PORT);
        ensure!(syns == 0, "{syns} SYNs in plain text");
        Ok(outcome)
    }
}

fn is_hook(pin: &Path, program: u32) -> Result<()> {
    let info = links::info(pin)?;
    ensure!(info.is_attached(), "not attached: {info:?}");
    ensure!(info.program == program, "program {} and not {program}", info.program);
    Ok(())
}

fn with_mesh(name: &str, test: impl FnOnce(&Node<'_>, &mut Table) -> Result<()>) {
    if !lab::ready(name) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(name);
        let cast = Cast::start(lab)?;
        lab.await_peers_tunnel(&cast.client)?;
        let _echoes = [
            programs::peer(&cast.client, "echo", PORT, &[])?,
            programs::peer(&cast.server, "echo", PORT, &[])?,
        ];
        let node = Node {
            lab,
            agent: lab.agent("a"),
            pins: Pins::of(lab, "a"),
            near: &cast.client,
            far: &cast.server,
        };
        node.as_before()?;
        test(&node, &mut table)?;
        table.row("nothing is repaired that nobody touched", || {
            let total = || -> Result<u64> { meters::total(lab.agent("b"), "weft_repairs_total", "") };
            ensure!(total()? == 0, "{} repairs on the other node", total()?);
            Ok(String::new())
        });
        table.finish();
        Ok(())
    });
}

#[test]
fn hooks_that_are_taken_away_come_back() {
    with_mesh("hooks_that_are_taken_away_come_back", |node, table| {
        let all = [hooks::CONNECT4, hooks::CONNECT6, hooks::PEERNAME4, hooks::PEERNAME6, hooks::SOCKOPS];
        let (own, other) = (&node.pins, Pins::of(node.lab, "b"));
        for name in all {
            let pin = own.hook(name);
            let program = links::info(&pin)?.program;
            let is_right = || is_hook(&pin, program);
            table.row(&format!("{name} detached"), || {
                let detach = || links::detach(&node.lab.node("a"), &pin);
                node.repaired("hook", HOOKS, detach, is_right)
            });
            table.row(&format!("{name} replaced by another program"), || {
                node.repaired("hook", HOOKS, || links::replace(&pin, &other.hook(name)), is_right)
            });
            table.row(&format!("{name} unpinned: it goes on running meanwhile"), || {
                node.nothing_in_plaintext(|| {
                    let unpin = || std::fs::remove_file(&pin).context("unlink the pin");
                    node.repaired("hook", HOOKS, unpin, is_right)
                })
            });
        }
        let pin = own.lookup(cookie(node.near)?);
        let program = links::info(&pin)?.program;
        let is_right = || is_hook(&pin, program);
        table.row("a pod's sk_lookup detached: nothing leaves in plain text", || {
            node.nothing_in_plaintext(|| {
                node.repaired("hook", BOUND, || links::detach(&node.lab.node("a"), &pin), is_right)
            })
        });
        table.row("a pod's sk_lookup replaced by another program", || {
            let far = other.lookup(cookie(node.far)?);
            node.repaired("hook", BOUND, || links::replace(&pin, &far), is_right)
        });
        table.row("a pod's sk_lookup unpinned: it goes on running meanwhile", || {
            node.nothing_in_plaintext(|| {
                let unpin = || -> Result<()> {
                    std::fs::remove_file(&pin)?;
                    Held::open(node.near, SocketAddr::new(node.far.v4().into(), PORT))?
                        .ensure_mtls(node.agent)
                };
                node.repaired("hook", BOUND, unpin, is_right)
            })
        });
        Ok(())
    });
}

#[test]
fn entries_and_listeners_that_are_taken_away_come_back() {
    with_mesh("entries_and_listeners_that_are_taken_away_come_back", |node, table| {
        let pins = &node.pins;
        let (cookie, id) = (cookie(node.near)?, node.near.cgroup().id()?);
        let address: IpAddr = node.near.v4().into();
        let captured = || pins.ensure_captured(node.near);
        for port in ListenerKey::ALL {
            table.row(&format!("listener {port} out of its map: refused meanwhile"), || {
                node.nothing_in_plaintext(|| {
                    let remove = || -> Result<()> {
                        pins.listeners()?.remove(&ListenerKey { addr: addr(address), port })?;
                        Ok(())
                    };
                    node.repaired("listener", BOUND, remove, captured)
                })
            });
        }
        // The kernel looks for the socket to close as for that of a new connection from outside, and so finds this one alone.
        table.row("listener 15008 closed in the kernel: another one", || {
            let close = || -> Result<()> {
                let from = format!("{address}:15008");
                let line = ["ss", "-K", "-4", "-t", "-l", "-n", "src", &from];
                let killed = node.near.run_in_namespace_only(line)?.run()?.ok()?.text();
                if killed.contains(&from) { Ok(()) } else { bail!("ss closed nothing: {killed}") }
            };
            node.repaired("listener", BOUND, close, captured)
        });
        table.row("the pod's namespace forgotten: refused meanwhile", || {
            node.nothing_in_plaintext(|| {
                let remove = || -> Result<()> { Ok(pins.pods()?.remove(&cookie)?) };
                node.repaired("map_entry", BOUND, remove, captured)
            })
        });
        table.row("the pod's namespace called excluded", || {
            let entry = PodEntry { state: PodEntry::STATE_EXCLUDED, ..PodEntry::default() };
            let change = || -> Result<()> { Ok(pins.pods()?.insert(cookie, entry, 0)?) };
            node.repaired("map_entry", BOUND, change, captured)
        });
        table.row("the pod's cgroup forgotten: captured meanwhile", || {
            node.nothing_in_plaintext(|| {
                let remove = || -> Result<()> { Ok(pins.cgroups()?.remove(&id)?) };
                node.repaired("map_entry", BOUND, remove, captured)
            })
        });
        table.row("namespace and cgroup both forgotten: refused meanwhile", || {
            node.nothing_in_plaintext(|| {
                let remove = || -> Result<()> {
                    pins.pods()?.remove(&cookie)?;
                    Ok(pins.cgroups()?.remove(&id)?)
                };
                node.repaired("map_entry", BOUND, remove, captured)
            })
        });
        table.row("the pod's address forgotten: nothing leaves in plain text", || {
            node.nothing_in_plaintext(|| {
                let remove = || -> Result<()> { Ok(pins.addrs()?.remove(&addr(address))?) };
                node.repaired("address", BOUND, remove, captured)
            })
        });
        table.row("the pod's address given to somebody else", || {
            let entry =
                AddrEntry { netns_cookie: cookie + 1_000_000, state: AddrEntry::LEAVING, reserved: 0 };
            let change = || -> Result<()> { Ok(pins.addrs()?.insert(addr(address), entry, 0)?) };
            node.repaired("address", BOUND, change, captured)
        });
        table.row("the settings changed", || {
            let wanted = pins.settings()?.get(&0, 0)?;
            let other = Settings { allow_unknown: 1 - wanted.allow_unknown, ..wanted };
            let change = || -> Result<()> { Ok(pins.settings()?.set(0, other, 0)?) };
            node.repaired("map_entry", HOOKS, change, || {
                let now = pins.settings()?.get(&0, 0)?;
                ensure!(now == wanted, "{now:?}");
                Ok(())
            })
        });
        table.row("the agent's own leave taken away", || {
            let agents: Vec<u64> = pins.agents()?.keys().flatten().collect();
            let remove = || -> Result<()> {
                agents.iter().try_for_each(|agent| -> Result<()> { Ok(pins.agents()?.remove(agent)?) })
            };
            node.repaired("map_entry", HOOKS, remove, || {
                let now: Vec<u64> = pins.agents()?.keys().flatten().collect();
                ensure!(now == agents, "{now:?}");
                Ok(())
            })
        });
        table.row("entries that no agent wrote are removed", || {
            let (stranger, address) = (u64::MAX - 7, "10.244.99.99".parse::<IpAddr>()?);
            let add = || -> Result<()> {
                let entry = PodEntry { state: PodEntry::STATE_EXCLUDED, ..PodEntry::default() };
                pins.pods()?.insert(stranger, entry, 0)?;
                let entry = CgroupEntry { netns_cookie: 0, state: PodEntry::STATE_EXCLUDED, flags: 0 };
                pins.cgroups()?.insert(stranger, entry, 0)?;
                let entry = AddrEntry { netns_cookie: stranger, state: AddrEntry::CAPTURED, reserved: 0 };
                Ok(pins.addrs()?.insert(addr(address), entry, 0)?)
            };
            node.repaired("map_entry", BOUND, add, || {
                let left = [
                    pins.pods()?.get(&stranger, 0).is_ok(),
                    pins.cgroups()?.get(&stranger, 0).is_ok(),
                    pins.addrs()?.get(&addr(address), 0).is_ok(),
                ];
                ensure!(left == [false; 3], "pod, cgroup, address left: {left:?}");
                Ok(())
            })
        });
        Ok(())
    });
}
