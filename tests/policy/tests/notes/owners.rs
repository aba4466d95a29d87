//! A port and its note are the client's: others begin nothing by them, however they send their packets.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use policy::bound::{Bound, reset, rows};
use policy::cast::{Cast, at};
use policy::counts::Counts;
use policy::enforce::put;
use policy::forge::{self, Wrap};
use policy::near::{CLIENT_ONLY, FAMILIES, shell};

use crate::{PATIENCE, echo};

/// For what the kernel does while it is asked to.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_note_is_nobody_elses() {
    const TEST: &str = "a_note_is_nobody_elses";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        put(lab, CLIENT_ONLY)?;
        for (family, ipv6) in FAMILIES {
            table.row(&format!("{family}: a port is used again and again, by its owner"), || {
                again(lab, &cast, ipv6)
            });
            table.row(&format!("{family}: a port whose connection has ended opens nothing"), || {
                ended(lab, &cast, ipv6)
            });
            table.row(&format!("{family}: a port whose connection is open opens nothing more"), || {
                alive(lab, &cast, ipv6)
            });
            for (how, wrap) in [("", None), (", by frames with a priority tag", Some(Wrap::PriorityTag))] {
                let name = format!(
                    "{family}: a port whose connection the server has lost is its owner's alone{how}"
                );
                table.row(&name, || abandoned(lab, &cast, ipv6, wrap));
            }
        }
        table.finish();
        Ok(())
    });
}

/// A listener that answers a word and ends first, or only after the client.
fn answer(listener: &TcpListener, ends_first: bool) -> Result<()> {
    let (stream, _) = eventually(PATIENCE, || listener.accept().map_err(|error| error.to_string()))?;
    let mut stream = echo(stream)?;
    if !ends_first {
        // Whatever the client ends it with.
        let _reset = stream.read(&mut [0]);
    }
    Ok(())
}

/// With a reset, which leaves nothing behind; then so that the server's kernel still knows the connection when the next comes.
fn again(lab: &Lab, cast: &Cast, ipv6: bool) -> Result<String> {
    const TIMES: u64 = 20;
    let (from, to) = (at(&cast.client, ipv6, 21_000), at(&cast.near, ipv6, 7202));
    let listener = cast.near.listen(to)?.context("listen")?;
    listener.set_nonblocking(true)?;
    let counts = Counts::of(lab.agent("a"))?;
    for number in 0..2 * TIMES {
        let ends_first = number >= TIMES;
        std::thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| answer(&listener, ends_first));
            let mut bound = Bound::dial(&cast.client, from, to)?;
            bound.speak()?;
            bound.end(ends_first)?;
            server.join().expect("the server panicked")
        })
        .with_context(|| format!("number {number}"))?;
    }
    let told = [("admitted", 2 * TIMES), ("steered_plaintext", 0), ("plaintext_refused", 0), ("bypass", 0)];
    counts.ensure(&told)?;
    Ok(format!("{} times", 2 * TIMES))
}

/// A pod sends a SYN: from its own namespace, whatever it says.
pub(crate) fn forge(pod: &Pod, from: SocketAddr, to: SocketAddr) -> Result<()> {
    pod.netns_thread(|| forge::syn(from, to))?.with_context(|| format!("a SYN from {from}"))
}

/// Pods of the node say that a connection begins at the client's address and port: from raw sockets, or in frames of their own.
fn others_forge(
    lab: &Lab,
    cast: &Cast,
    from: SocketAddr,
    to: SocketAddr,
    wrap: Option<Wrap>,
) -> Result<String> {
    for (who, pod) in [("a neighbour", &cast.cart), ("a stranger", &cast.stranger)] {
        let counts = Counts::of(lab.agent("a"))?;
        match wrap {
            None => forge(pod, from, to)?,
            Some(wrap) => pod.netns_thread(|| forge::framed_syn(from, to, wrap))??,
        }
        comes(&counts, "spoofed_source").context(who)?;
        counts.ensure(&[("plaintext_refused", 0)])?;
    }
    Ok("two stopped at their devices as spoofed".to_owned())
}

/// So do the client itself, from a raw socket, and somebody past every guard.
fn all_forge(lab: &Lab, cast: &Cast, from: SocketAddr, to: SocketAddr) -> Result<()> {
    others_forge(lab, cast, from, to, None)?;
    let counts = Counts::of(lab.agent("a"))?;
    forge(&cast.client, from, to)?;
    comes(&counts, "bypass").context("the client itself")?;
    let counts = Counts::of(lab.agent("a"))?;
    // What the server answers is no connection of the client's either, and is counted too.
    cast.client.node().netns_thread(|| forge::syn(from, to))??;
    comes(&counts, "plaintext_refused").context("the node itself")
}

/// It is counted under this word, and nobody is let in.
fn comes(counts: &Counts<'_>, word: &str) -> Result<()> {
    eventually(SOON, || match counts.since(word) {
        Ok(count) if count > 0 => Ok(()),
        _ => Err(format!("none is counted as {word}: {:?}", counts.all())),
    })?;
    counts.ensure(&[("admitted", 0), ("steered_plaintext", 0)])
}

/// A port of the client's, after its connection.
fn ended(lab: &Lab, cast: &Cast, ipv6: bool) -> Result<String> {
    let to = at(&cast.near, ipv6, 7203);
    let listener = cast.near.listen(to)?.context("listen")?;
    listener.set_nonblocking(true)?;
    for (number, ends_first) in [false, true].into_iter().enumerate() {
        let from = at(&cast.client, ipv6, 21_100 + number as u16);
        std::thread::scope(|scope| -> Result<()> {
            let server = scope.spawn(|| answer(&listener, ends_first));
            let mut bound = Bound::dial(&cast.client, from, to)?;
            bound.speak()?;
            let row = rows(lab.agent("a"), from)?;
            ensure!(row.iter().all(|row| row["path"] == "direct") && row.len() == 2, "{row:?}");
            bound.end(ends_first)?;
            server.join().expect("the server panicked")
        })?;
        eventually(PATIENCE, || match rows(lab.agent("a"), from) {
            Ok(rows) if rows.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        all_forge(lab, cast, from, to)
            .with_context(|| if ends_first { "the server waits for stragglers" } else { "it was reset" })?;
        let came = listener.accept().map(|(_, from)| from);
        ensure!(came.is_err(), "the server has seen an accept: {came:?}");
    }
    Ok("stopped as spoofed_source, bypass and plaintext_refused".to_owned())
}

/// During its connection: before the server has taken it, and after.
fn alive(lab: &Lab, cast: &Cast, ipv6: bool) -> Result<String> {
    let (from, to) = (at(&cast.client, ipv6, 21_200), at(&cast.near, ipv6, 7204));
    let listener = cast.near.listen(to)?.context("listen")?;
    listener.set_nonblocking(true)?;
    let mut bound = Bound::dial(&cast.client, from, to)?;
    others_forge(lab, cast, from, to, None).context("before the accept")?;
    let (stream, came) = eventually(PATIENCE, || listener.accept().map_err(|error| error.to_string()))?;
    ensure!(came == from, "{came} came");
    others_forge(lab, cast, from, to, None).context("after the accept")?;
    // Who is the client, and who is past every guard, disturb what is open and begin nothing.
    let counts = Counts::of(lab.agent("a"))?;
    forge(&cast.client, from, to)?;
    cast.client.node().netns_thread(|| forge::syn(from, to))??;
    let second = listener.accept().map(|(_, from)| from);
    ensure!(second.is_err(), "the server has seen another accept: {second:?}");
    counts.ensure(&[("admitted", 0), ("steered_plaintext", 0)])?;
    std::thread::scope(|scope| -> Result<()> {
        let server = scope.spawn(|| echo(stream));
        bound.speak().context("the connection itself goes on")?;
        server.join().expect("the server panicked").map(drop)
    })?;
    Ok("it goes on, and nothing was let in".to_owned())
}

/// The server's end is gone and the client has not heard of it: there is a note and no connection to take what comes.
fn abandoned(lab: &Lab, cast: &Cast, ipv6: bool, wrap: Option<Wrap>) -> Result<String> {
    let (from, port) =
        (at(&cast.client, ipv6, 21_300 + u16::from(wrap.is_some())), 7205 + u16::from(wrap.is_some()));
    let to = at(&cast.near, ipv6, port);
    let listener = cast.near.listen(to)?.context("listen")?;
    listener.set_nonblocking(true)?;
    let bound = Bound::dial(&cast.client, from, to)?;
    let (stream, _) = eventually(PATIENCE, || listener.accept().map_err(|error| error.to_string()))?;
    let deaf = format!(
        "nft add table inet deaf; nft add chain inet deaf out '{{ type filter hook output priority 0; }}'; \
         nft add rule inet deaf out tcp sport {port} tcp flags rst drop"
    );
    shell(&cast.near, &deaf)?;
    reset(stream)?;
    shell(&cast.near, "nft delete table inet deaf")?;
    let rows = rows(lab.agent("a"), from)?;
    ensure!(rows.len() == 2, "there is no note: {rows:?}");
    let told = others_forge(lab, cast, from, to, wrap);
    let came = listener.accept().map(|(_, from)| from);
    bound.end(false)?;
    ensure!(came.is_err(), "the server has seen an accept: {came:?}");
    told
}
