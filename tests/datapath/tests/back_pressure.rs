//! Promise: who does not read holds up his own sender, and nobody else; the agents do not keep for him what he leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datapath::cast::{Cast, Way};
use datapath::conversation::{Conversation, Host};
use datapath::memory;
use lab::row::Table;
use lab::{Lab, programs};
use serde_json::Value;

const TEST: &str = "who_does_not_read_holds_up_nobody_else";
const MIB: u64 = 1 << 20;
/// Senders that are held up at once, on each way.
const STALLED: usize = 8;
/// What both agents together may keep for them: windows and buffers, and what the allocator does not give back.
const KEPT: u64 = 64 * MIB;
/// Far more than any window and buffer on the way; who gets rid of so much was not held up.
const MOST: u64 = 256 * MIB;

#[test]
fn who_does_not_read_holds_up_nobody_else() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(nobody_else);
}

fn nobody_else(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let _echo = programs::peer(&cast.server, "echo", 9002, &[])?;
    let _store = programs::peer(&cast.store, "echo", 9002, &[])?;
    let mut table = Table::new(TEST);
    for way in cast.ways() {
        // Warm: what an agent needs anyway is not to be counted.
        others_go_on(&way)?;
        let before = memory::of_agents(lab)?;
        let host = Host::start(way.to)?;
        let talks = (0..STALLED)
            .map(|_| host.converse(way.from, way.to.v4().into()))
            .collect::<Result<Vec<Conversation>>>()?;
        let name = |what: &str| format!("{what}, {}", way.name);
        let mut sent = Vec::new();
        table.row(&name("senders are held up"), || {
            // Half of them up, half of them down.
            let senders = talks.iter().enumerate().map(|(number, talk)| ends(number, talk).0);
            sent = fill(&senders.collect::<Vec<_>>())?;
            let most = sent.iter().max().copied().unwrap_or_default();
            ensure!(most < MOST, "somebody got rid of {most} bytes that nobody read");
            Ok(format!("{STALLED} of them, after {} MiB at most", most / MIB))
        });
        table.row(&name("the agents' memory is bounded"), || {
            let grown = memory::of_agents(lab)?.saturating_sub(before);
            ensure!(grown < KEPT, "it grew by {} MiB", grown / MIB);
            Ok(format!("it grew by {:.1} MiB", grown as f64 / MIB as f64))
        });
        table.row(&name("others go on meanwhile"), || others_go_on(&way));
        table.row(&name("everything arrives once it is read"), || {
            for (number, (talk, sent)) in talks.iter().zip(&sent).enumerate() {
                drain(ends(number, talk).1, *sent).with_context(|| format!("reader {number}"))?;
            }
            ensure!(sent.len() == STALLED, "nothing was sent");
            Ok(format!("{} MiB", sent.iter().sum::<u64>() / MIB))
        });
    }
    table.finish();
    Ok(())
}

/// Sender and reader.
fn ends(number: usize, talk: &Conversation) -> (&TcpStream, &TcpStream) {
    if number.is_multiple_of(2) { (&talk.client, &talk.server) } else { (&talk.server, &talk.client) }
}

/// Writes to all until none takes any more for a while; how much each has taken.
fn fill(senders: &[&TcpStream]) -> Result<Vec<u64>> {
    const QUIET: Duration = Duration::from_millis(700);
    let block = vec![0x5a; 256 << 10];
    let mut sent = vec![0; senders.len()];
    senders.iter().try_for_each(|sender| sender.set_nonblocking(true))?;
    let mut last = Instant::now();
    while last.elapsed() < QUIET && sent.iter().all(|sent| *sent < MOST) {
        for (mut sender, sent) in senders.iter().copied().zip(&mut sent) {
            match sender.write(&block) {
                Ok(count) => {
                    *sent += count as u64;
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("a sender that is held up must not fail"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    senders.iter().try_for_each(|sender| sender.set_nonblocking(false))?;
    Ok(sent)
}

fn drain(mut reader: &TcpStream, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        match reader.read(&mut buffer) {
            Ok(0) => anyhow::bail!("the stream ends {left} bytes before its end"),
            Ok(count) => {
                ensure!(buffer[..count].iter().all(|byte| *byte == 0x5a), "other bytes than were sent");
                left = left.checked_sub(count as u64).context("more than was sent")?;
            }
            Err(error) => return Err(error).with_context(|| format!("{left} bytes left")),
        }
    }
    Ok(())
}

/// The same two pods have other conversations, which are as quick as ever.
fn others_go_on(way: &Way<'_>) -> Result<String> {
    let to = format!("{}:9002", way.to.v4());
    let words = ["weft-lab-peer", "crowd", "--to", &to, "--connections", "8", "--bytes", "4194304"];
    let said: Value = way.from.exec(words)?.ok()?.json()?;
    ensure!(said["ok"] == 8, "{said}");
    Ok(format!("8 of them, 4 MiB each way, {:.2} s", said["seconds"].as_f64().unwrap_or_default()))
}
