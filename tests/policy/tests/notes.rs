//! Promise: what a client's kernel noted of a direct connection lets in that connection, whatever happens to its packets, and no
//! other: none after it, none beside it, none by another's hand.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "notes/agent.rs"]
mod agent;
#[path = "notes/claims.rs"]
mod claims;
#[path = "notes/owners.rs"]
mod owners;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use policy::cast::{Cast, PORTS, at};
use policy::counts::Counts;
use policy::enforce::{Policy, put, remove};
use policy::near::{CLIENT_ONLY, FAMILIES, is_direct, node_shell, others_are_refused, shell};
use policy::open::{Open, Quiet};
use policy::talk::{Outcome, talk};

pub(crate) const PORT: u16 = PORTS[0];
const NOBODY: Policy<'_> = Policy {
    key: "shop/nobody",
    spec: "targetRefs: [{kind: Namespace}], action: DENY, rules: [{sources: [{serviceAccount: {name: client}}]}]",
};
/// For what takes a retransmission or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A first retransmission comes after so long at the earliest.
const RETRANSMITTED: Duration = Duration::from_millis(900);

#[test]
fn a_direct_connection_is_let_in_whatever_happens_to_its_packets() {
    const TEST: &str = "a_direct_connection_is_let_in_whatever_happens_to_its_packets";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        put(lab, CLIENT_ONLY)?;
        table.row("its SYN is lost, or the answer: the next one is let in", || lost(lab, &cast));
        table.row("its SYN is lost, and policy changes: the next one is refused", || {
            lost_and_refused(lab, &cast)
        });
        table.row("the server answers with SYN cookies: 200 of 200, and nobody else", || cookies(lab, &cast));
        table.row("the server's backlog is full: it waits as without a mesh", || backlog(lab, &cast));
        for (family, ipv6) in FAMILIES {
            table.row(&format!("{family}: its source is translated on the way: it is nobody's"), || {
                translated(lab, &cast, ipv6)
            });
        }
        table.finish();
        Ok(())
    });
}

/// The first SYN to one port does not arrive, and the first answer of the other: four connections at once.
fn lost(lab: &Lab, cast: &Cast) -> Result<String> {
    let once = |matches: &str, family: &str| {
        format!("meta nfproto {family} tcp {matches} limit rate 1/day burst 1 packets counter drop\n")
    };
    let mut rules = "add table inet lost\n\
        add chain inet lost in { type filter hook prerouting priority -300; }\n\
        add chain inet lost out { type filter hook output priority -300; }\n"
        .to_owned();
    for family in ["ipv4", "ipv6"] {
        let syn = once(&format!("dport {} tcp flags & (syn | ack) == syn", PORTS[0]), family);
        let answer = once(&format!("sport {} tcp flags & (syn | ack) == (syn | ack)", PORTS[1]), family);
        rules += &format!("add rule inet lost in {syn}add rule inet lost out {answer}");
    }
    shell(&cast.near, &format!("nft -f - <<'END'\n{rules}END\n"))?;
    let counts = Counts::of(lab.agent("a"))?;
    let dials = FAMILIES.iter().flat_map(|(_, ipv6)| PORTS.map(|port| at(&cast.near, *ipv6, port)));
    let all: Vec<(Open, Duration)> = std::thread::scope(|scope| {
        let dial = |to| {
            let start = Instant::now();
            Open::new(&cast.client, to).map(|open| (open, start.elapsed()))
        };
        let dials: Vec<_> = dials.map(|to| scope.spawn(move || dial(to))).collect();
        dials.into_iter().map(|dial| dial.join().expect("the client panicked")).collect::<Result<_>>()
    })?;
    let dropped = shell(&cast.near, "nft list table inet lost; nft delete table inet lost")?;
    ensure!(dropped.matches("counter packets 1 ").count() == 4, "not four packets were lost: {dropped}");
    for (open, after) in &all {
        ensure!(*after >= RETRANSMITTED, "{} was open after {after:?}", open.from);
        is_direct(lab, open)?;
    }
    counts.ensure(&[("direct", 4), ("steered_plaintext", 0), ("plaintext_refused", 0), ("bypass", 0)])?;
    Ok(format!("after {:.1?}", all.iter().map(|(_, after)| *after).max().unwrap_or_default()))
}

/// A SYN that is sent again is judged by what holds then.
fn lost_and_refused(lab: &Lab, cast: &Cast) -> Result<String> {
    let quiet = Quiet::open(&cast.near, 7200)?;
    shell(
        &cast.near,
        "nft add table ip lost; nft add chain ip lost in '{ type filter hook prerouting priority -300; }'; \
         nft add rule ip lost in tcp dport 7200 counter drop",
    )?;
    let to = at(&cast.near, false, 7200);
    let error = std::thread::scope(|scope| -> Result<io::Error> {
        let dial = scope.spawn(|| cast.client.connect(to, PATIENCE));
        eventually(PATIENCE, || {
            let listed = shell(&cast.near, "nft list table ip lost").map_err(|error| format!("{error:#}"))?;
            if listed.contains("packets 0 ") { Err(listed) } else { Ok(()) }
        })?;
        put(lab, NOBODY)?;
        shell(&cast.near, "nft delete table ip lost")?;
        let outcome = dial.join().expect("the client panicked")?;
        outcome.err().context("it is let in")
    })?;
    ensure!(quiet.accepted()? == 0, "the server has seen an accept");
    remove(lab, NOBODY.key)?;
    ensure!(matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted), "{error}");
    Ok(error.to_string())
}

fn cookies(lab: &Lab, cast: &Cast) -> Result<String> {
    const MANY: usize = 200;
    let sent = || -> Result<u64> {
        let text = cast.near.netns_thread(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(name, _)| *name == "SyncookiesSent").context("no SyncookiesSent")?;
        Ok(value.parse()?)
    };
    // Of this pod's namespace alone.
    shell(&cast.near, "echo 2 > /proc/sys/net/ipv4/tcp_syncookies")?;
    let (before, counts) = (sent()?, Counts::of(lab.agent("a"))?);
    for number in 0..MANY {
        let open = Open::new(&cast.client, at(&cast.near, number % 2 == 1, PORT))
            .with_context(|| format!("number {number}"))?;
        if number % 20 < 2 {
            is_direct(lab, &open)?;
        }
    }
    let cookies = sent()? - before;
    ensure!(cookies >= MANY as u64, "only {cookies} cookies were sent");
    counts.ensure(&[
        ("direct", MANY as u64),
        ("steered_plaintext", 0),
        ("plaintext_refused", 0),
        ("bypass", 0),
    ])?;
    let admitted = counts.since("admitted")?;
    ensure!(admitted >= MANY as u64, "admitted {admitted} times");
    for (_, ipv6) in FAMILIES {
        others_are_refused(cast, at(&cast.near, ipv6, PORT))?;
    }
    shell(&cast.near, "echo 1 > /proc/sys/net/ipv4/tcp_syncookies")?;
    Ok(format!("{cookies} cookies"))
}

/// Six dial a server that has room for two. Linux answers the rest with SYN cookies, or not at all; whoever speaks gets in when
/// there is room.
fn backlog(lab: &Lab, cast: &Cast) -> Result<String> {
    const CLIENTS: usize = 6;
    /// Longer than the first two retransmissions.
    const BUSY: Duration = Duration::from_millis(2200);
    let to = at(&cast.near, false, 7201);
    let listener = cast.near.listen((Ipv6Addr::UNSPECIFIED, 7201).into())?.context("listen")?;
    // SAFETY: takes no pointers; listen(2) on a listening socket sets its backlog anew.
    ensure!(unsafe { libc::listen(listener.as_raw_fd(), 1) } == 0, "listen(2)");
    let counts = Counts::of(lab.agent("a"))?;
    std::thread::scope(|scope| {
        let dials: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| Open::new(&cast.client, to))).collect();
        let start = Instant::now();
        while start.elapsed() < BUSY {
            others_are_refused(cast, to)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        ensure!(!dials.iter().any(|dial| dial.is_finished()), "somebody did not wait");
        listener.set_nonblocking(true)?;
        let mut served = Vec::new();
        eventually(PATIENCE, || {
            while let Ok((stream, from)) = listener.accept() {
                echo(stream)
                    .map_err(|error| format!("{from}: {error:#}"))
                    .map(|stream| served.push(stream))?;
            }
            if served.len() == CLIENTS { Ok(()) } else { Err(format!("{} served", served.len())) }
        })?;
        for dial in dials {
            is_direct(lab, &dial.join().expect("the client panicked")?)?;
        }
        counts.ensure(&[("direct", CLIENTS as u64), ("steered_plaintext", 0), ("bypass", 0)])?;
        Ok(format!("{CLIENTS} waited {:.1?} at least, and were let in", BUSY))
    })
}

/// Sends a word back.
pub(crate) fn echo(mut stream: TcpStream) -> Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut word = [0; 4];
    stream.read_exact(&mut word)?;
    stream.write_all(&word)?;
    Ok(stream)
}

/// The node says that it is the source. To one port alone, so that the others go on directly.
fn translated(lab: &Lab, cast: &Cast, ipv6: bool) -> Result<String> {
    let (family, to) = (if ipv6 { "ip6" } else { "ip" }, at(&cast.near, ipv6, PORT));
    let rules = format!(
        "nft add table {family} between; nft add chain {family} between out '{{ type nat hook postrouting priority 100; }}'; \
         nft add rule {family} between out {family} daddr {} tcp dport {PORT} masquerade",
        to.ip()
    );
    node_shell(&cast.near, &rules)?;
    let judged = || -> Result<String> {
        let counts = Counts::of(lab.agent("a"))?;
        let outcome = talk(&cast.client, to)?;
        ensure!(outcome == Outcome::Refused, "under a policy: {outcome}");
        counts.ensure(&[("direct", 1), ("admitted", 0), ("plaintext_refused", 1)])?;
        remove(lab, CLIENT_ONLY.key)?;
        let counts = Counts::of(lab.agent("a"))?;
        let open = Open::new(&cast.client, to)?;
        counts.ensure(&[("direct", 1), ("admitted", 0), ("steered_plaintext", 1)])?;
        let to = to.to_string();
        let inbound = |row: &&serde_json::Value| {
            row["direction"] == "inbound"
                && row["dst"]["addr"] == to.as_str()
                && row["security"] == "plaintext"
        };
        let all = lab.agent("a").connections()?;
        let row = all.iter().find(inbound).with_context(|| format!("no plaintext arrives: {all:?}"))?;
        ensure!(row["src"]["identity"].is_null() && row["src"]["addr"] != open.from.to_string(), "{row}");
        Ok(format!("refused; without a policy in plain text from {}", row["src"]["addr"]))
    };
    let told = judged();
    node_shell(&cast.near, &format!("nft delete table {family} between"))?;
    put(lab, CLIENT_ONLY)?;
    is_direct(lab, &Open::new(&cast.client, to)?)?;
    told
}
