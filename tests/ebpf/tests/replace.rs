//! A successor puts its programs in the place of its predecessor's: nothing that happens meanwhile is missed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use ebpf_tests::hooks::refused_errno;
use ebpf_tests::stage::{NODE, Stage};
use ebpf_tests::{Captured, Door, Family, Hand, Hooks, link};
use lab::Lab;
use lab::row::Table;
use mesh_common::{ListenerKey, PodEntry, SockNote, paths, programs};

/// Connections that each row makes while links are replaced.
const CONNECTS: usize = 500;

/// Two loads of the object over the same pinned maps, and the pinned links.
struct Succession {
    programs: [Vec<(&'static str, OwnedFd)>; 2],
    links: Vec<(&'static str, OwnedFd)>,
    rounds: usize,
}

impl Succession {
    /// Gives every link the other load's program.
    fn next(&mut self) -> Result<()> {
        self.rounds += 1;
        let programs = &self.programs[self.rounds % 2];
        for (name, link) in &self.links {
            let (_, program) = programs.iter().find(|(other, _)| other == name).context("no such program")?;
            link::update(link, program.as_fd()).with_context(|| format!("replace {name}"))?;
        }
        Ok(())
    }

    /// Goes on replacing until the clients are done.
    fn while_running<T>(&mut self, clients: thread::ScopedJoinHandle<'_, T>) -> Result<T> {
        while !clients.is_finished() {
            self.next()?;
        }
        clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))
    }
}

fn pins(lab: &Lab) -> PathBuf {
    lab.place().bpffs(NODE).join(paths::ROOT)
}

/// The hooks of the first load, with pinned links.
fn attach(lab: &Lab) -> Result<(Hooks, Succession)> {
    let (maps, links) = (pins(lab).join(paths::MAPS), pins(lab).join(paths::LINKS));
    std::fs::create_dir_all(&maps)?;
    std::fs::create_dir_all(&links)?;
    let first = Hooks::load(Some(&maps))?;
    let second = Hooks::load(Some(&maps))?;
    let mut pinned = Vec::new();
    for (name, link) in first.attach(lab.node(NODE).cgroup().path())? {
        let pin = links.join(name);
        link.pin(&pin)?;
        pinned.push((name, link::open(&pin)?));
    }
    let names: Vec<&str> = pinned.iter().map(|(name, _)| *name).chain([programs::SK_LOOKUP]).collect();
    let programs = [&second, &first].map(|hooks| -> Result<Vec<_>> {
        names.iter().map(|name| Ok((*name, hooks.program(name)?))).collect()
    });
    let [even, odd] = programs;
    Ok((first, Succession { programs: [odd?, even?], links: pinned, rounds: 0 }))
}

#[test]
fn nothing_is_missed_while_the_programs_are_replaced() {
    const TEST: &str = "nothing_is_missed_while_the_programs_are_replaced";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node(NODE).without_mesh().run(|lab| {
        let (hooks, mut succession) = attach(lab)?;
        let stage = Stage::with(lab, hooks, Vec::new())?;
        let mut web = stage.captured()?;
        let pin = pins(lab).join(web.cookie.to_string());
        web.take_link()?.pin(&pin)?;
        succession.links.push((programs::SK_LOOKUP, link::open(&pin)?));

        let mut table = Table::new(TEST);
        for family in Family::ALL {
            outbound(&stage, &web, &mut succession, family, &mut table)?;
        }
        for family in Family::ON_THE_WIRE {
            inbound(&stage, &web, &mut succession, family, &mut table)?;
        }
        pending(&stage, &mut succession, &mut table)?;
        table.finish();
        Ok(())
    });
}

/// The destination, where nobody must come.
fn destination(stage: &Stage<'_>, family: Family) -> Result<(Door, SocketAddr)> {
    let (pod, hand) = stage.outsider()?;
    Ok((Door::dual(&hand, 80)?, family.of(&pod, 80)))
}

fn outbound(
    stage: &Stage<'_>,
    web: &Captured<'_>,
    succession: &mut Succession,
    family: Family,
    table: &mut Table,
) -> Result<()> {
    let (server, to) = destination(stage, family)?;
    let hand = Hand::in_pod(stage.lab, &web.pod)?;
    table.row(&format!("{}: every connect is captured, with its note", family.name()), || {
        let before = succession.rounds;
        let connected: Result<Vec<_>> = stage.counts(&[("Redirected", CONNECTS as u64)], || {
            thread::scope(|scope| {
                let clients = scope.spawn(move || connects(&hand, to));
                succession.while_running(clients)
            })
        })?;
        let clients = connected?;
        ensure!(
            clients.iter().all(io::Result::is_ok),
            "refused: {:?}",
            clients.iter().find(|one| one.is_err())
        );
        for _ in 0..CONNECTS {
            let visitor = web.door(family, ListenerKey::OUTBOUND).visitor()?;
            web.expect_note(&visitor.socket, SockNote::ORIGINAL, to)?;
        }
        server.nobody()?;
        Ok(format!("{CONNECTS} connects, {} replacements", succession.rounds - before))
    });
    Ok(())
}

fn inbound(
    stage: &Stage<'_>,
    web: &Captured<'_>,
    succession: &mut Succession,
    family: Family,
    table: &mut Table,
) -> Result<()> {
    let application = Door::dual(&web.hand, 8000 + family as u16)?;
    let to = family.of(&web.pod, 8000 + family as u16);
    let (_, outside) = stage.outsider()?;
    table.row(&format!("{}: everything that arrives is steered to the agent", family.name()), || {
        let before = succession.rounds;
        let connected: Result<Vec<_>> = stage.counts(&[("SteeredPlaintext", CONNECTS as u64)], || {
            thread::scope(|scope| {
                let clients = scope.spawn(move || connects(&outside, to));
                succession.while_running(clients)
            })
        })?;
        let clients = connected?;
        ensure!(
            clients.iter().all(io::Result::is_ok),
            "refused: {:?}",
            clients.iter().find(|one| one.is_err())
        );
        for _ in 0..CONNECTS {
            web.door(family, ListenerKey::PLAINTEXT).visitor()?;
        }
        application.nobody()?;
        Ok(format!("{CONNECTS} connects, {} replacements", succession.rounds - before))
    });
    Ok(())
}

fn pending(stage: &Stage<'_>, succession: &mut Succession, table: &mut Table) -> Result<()> {
    let (server, to) = destination(stage, Family::V4)?;
    for (row, state, reason) in [
        ("a pending pod is refused all the time", Some(PodEntry::STATE_PENDING), "NotReady"),
        ("an unknown pod is refused all the time", None, "UnknownPod"),
    ] {
        let pod = stage.pod()?;
        if let Some(state) = state {
            stage.record(&pod, state)?;
        }
        let hand = Hand::in_pod(stage.lab, &pod)?;
        table.row(row, || {
            let before = succession.rounds;
            let refused: Result<Vec<_>> = stage.counts(&[(reason, CONNECTS as u64)], || {
                thread::scope(|scope| {
                    let clients = scope.spawn(move || connects(&hand, to));
                    succession.while_running(clients)
                })
            })?;
            for outcome in refused? {
                let error = outcome.err().context("one connected")?;
                ensure!(error.raw_os_error() == Some(refused_errno()), "connect said {error}");
            }
            server.nobody()?;
            Ok(format!("{CONNECTS} connects, {} replacements", succession.rounds - before))
        });
    }
    Ok(())
}

/// Connects again and again; sockets are closed at once.
fn connects(hand: &Hand, to: SocketAddr) -> Result<Vec<io::Result<()>>> {
    (0..CONNECTS).map(|_| Ok(hand.dial(to)?.map(drop))).collect()
}
