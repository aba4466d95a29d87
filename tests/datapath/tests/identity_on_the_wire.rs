//! Promise: between nodes there is mutual TLS and nothing else: no byte of a payload can be read, and both ends prove who
//! they are with the identity of their pod.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use datapath::cast::Cast;
use datapath::conversation::{Conversation, Host, say};
use datapath::openssl::{self, HBONE, Pair, Signer, Visit};
use datapath::report::connect_once;
use datapath::seen::{connection, identity, kernel_events};
use lab::row::Table;
use lab::{Lab, Pod};

const TEST: &str = "only_mutual_tls_is_on_the_wire";
const QUESTION: &[u8] = b"what-nobody-between-the-nodes-may-read";
const ANSWER: &[u8] = b"nor-what-is-answered-to-it";

#[test]
fn only_mutual_tls_is_on_the_wire() {
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(only_mutual_tls);
}

fn only_mutual_tls(lab: &Lab) -> Result<()> {
    let cast = Cast::start(lab)?;
    let mut table = Table::new(TEST);
    on_the_wire(&mut table, lab, &cast);
    table.row("both agents show both identities, the way and the bytes", || in_both_tables(lab, &cast));
    table.row("nothing to vouch for, no identity: plaintext in", || {
        let row = running(lab, "b", "inbound", &cast.stranger, &cast.server, false)?;
        ensure!(row["security"] == "plaintext" && row["path"] == "plaintext", "{row}");
        ensure!(row["src"]["identity"].is_null() && row["src"]["name"] == "stranger", "{row}");
        Ok(row["src"].to_string())
    });
    table.row("to what is outside the mesh: as dialled, in no agent's table, counted", || {
        let agent = lab.agent("a");
        let before = kernel_events(agent, "left")?;
        let (_host, talk) = converse(&cast.client, &cast.store, false)?;
        let client = talk.client.local_addr()?.to_string();
        let mut rows = agent.connections()?.into_iter();
        let row = rows.find(|row| row["src"]["addr"] == client.as_str());
        ensure!(row.is_none(), "{row:?}");
        let counted = kernel_events(agent, "left")?.saturating_sub(before);
        ensure!(counted == 1, "counted {counted} times");
        Ok(String::new())
    });
    certificates(&mut table, lab, &cast)?;
    table.finish();
    Ok(())
}

/// The same words between captured pods and between others: read in the second case alone, so the look is a good one.
fn on_the_wire(table: &mut Table, lab: &Lab, cast: &Cast) {
    for (family, six) in [("IPv4", false), ("IPv6", true)] {
        let count = |from: &Pod, to: &Pod| -> Result<(usize, usize)> {
            let wire = lab.capture_wire("b")?;
            converse(from, to, six)?;
            let pcap = wire.stop()?;
            let bytes = pcap.count_plaintext(QUESTION) + pcap.count_plaintext(ANSWER);
            let syns = pcap.plaintext_syns_to(if six { to.v6().into() } else { to.v4().into() }, HBONE);
            let others = pcap.tcp_syns().saturating_sub(syns);
            Ok((bytes, others))
        };
        table.row(&format!("bytes that can be read between captured pods, {family}"), || {
            let (bytes, others) = count(&cast.client, &cast.server)?;
            ensure!(bytes == 0, "{bytes} bytes of the payload");
            // The control plane's own connections are older than the capture.
            ensure!(others == 0, "{others} connections to other ports than {HBONE}");
            Ok(format!("{bytes}"))
        });
        table.row(&format!("bytes that can be read between others, {family}"), || {
            let (bytes, _) = count(&cast.stranger, &cast.store)?;
            ensure!(bytes == QUESTION.len() + ANSWER.len(), "{bytes} bytes of the payload");
            Ok(format!("{bytes}"))
        });
    }
}

fn converse(from: &Pod, to: &Pod, six: bool) -> Result<(Host, Conversation)> {
    let host = Host::start(to)?;
    let address: IpAddr = if six { to.v6().into() } else { to.v4().into() };
    let talk = host.converse(from, address)?;
    say(&talk.client, &talk.server, QUESTION)?;
    say(&talk.server, &talk.client, ANSWER)?;
    Ok((host, talk))
}

/// The row of a new conversation.
fn running(
    lab: &Lab,
    node: &str,
    direction: &str,
    from: &Pod,
    to: &Pod,
    any_port: bool,
) -> Result<serde_json::Value> {
    let (host, talk) = converse(from, to, false)?;
    let mut client = talk.client.local_addr()?;
    if any_port {
        client.set_port(0);
    }
    connection(lab.agent(node), direction, client, SocketAddr::new(to.v4().into(), host.port()))
}

fn in_both_tables(lab: &Lab, cast: &Cast) -> Result<String> {
    let (host, talk) = converse(&cast.client, &cast.server, false)?;
    // What is up and what is down must not be mixed up.
    (&talk.client).write_all(&[0; 1000])?;
    let (sent, received) = (QUESTION.len() as u64 + 1000, ANSWER.len() as u64);
    let client = talk.client.local_addr()?;
    let endpoint = SocketAddr::new(cast.server.v4().into(), host.port());
    let (from, to) = (identity(&cast.client), identity(&cast.server));
    for (node, direction) in [("a", "outbound"), ("b", "inbound")] {
        lab::eventually(Duration::from_secs(5), || {
            let row = connection(lab.agent(node), direction, client, endpoint)
                .map_err(|error| format!("{error:#}"))?;
            let well = row["path"] == "tunnel"
                && row["security"] == "mtls"
                && row["src"]["identity"] == from.as_str()
                && row["dst"]["identity"] == to.as_str()
                && (&row["src"]["namespace"], &row["src"]["name"]) == (&"shop".into(), &"client".into())
                && (&row["dst"]["namespace"], &row["dst"]["name"]) == (&"shop".into(), &"server".into())
                && row["bytes_sent"] == sent
                && row["bytes_received"] == received;
            if well { Ok(()) } else { Err(row.to_string()) }
        })?;
    }
    Ok(format!("{from} to {to}, {sent} bytes up, {received} down"))
}

fn certificates(table: &mut Table, lab: &Lab, cast: &Cast) -> Result<()> {
    for pod in [&cast.server, &cast.client] {
        let visit = Visit::pay(lab, if pod.node().name() == "a" { "b" } else { "a" }, pod, None)?;
        table.row(&format!("the certificate of {} names it, and nothing else", pod.key()), || {
            let named = visit.identity(lab)?;
            ensure!(named == identity(pod), "it names {named}");
            Ok(named)
        });
        table.row(&format!("{} serves nobody without a certificate", pod.key()), || visit.alert());
    }
    let forged = Pair::make(lab, "forged", &identity(&cast.client), Signer::Itself)?;
    table.row("nobody is served whom the mesh's authority did not sign", || {
        Visit::pay(lab, "a", &cast.server, Some(&forged))?.alert()
    });

    // A peer that is not Weft says who came to it.
    let foreign = lab.pod("yard/foreign").node("b").service_account("foreign");
    let foreign = foreign.annotation("weft.dev/tunnel", "hbone").start()?;
    lab.await_excluded(&foreign)?;
    lab.await_peers_see(&foreign, "foreign")?;
    let own = Pair::make(lab, "foreign", &identity(&foreign), Signer::Mesh)?;
    let other = Pair::make(lab, "other", &identity(&cast.store), Signer::Mesh)?;
    let to = SocketAddr::new(foreign.v4().into(), 80);
    table.row("a client's agent shows its pod's certificate", || {
        let host = openssl::host(lab, &foreign, &own)?;
        // It speaks no HTTP/2, so nothing comes of it but a handshake.
        let _dialled = cast.client.connect(to, Duration::from_secs(5))??;
        let named = lab::eventually(Duration::from_secs(10), || {
            let said = host.stdout_so_far();
            openssl::identity(lab, &said).map_err(|error| format!("{error:#}\n{}", host.stderr_so_far()))
        })?;
        ensure!(named == identity(&cast.client), "it names {named}");
        Ok(named)
    });
    table.row("nothing is sent to a server with another pod's certificate", || {
        let host = openssl::host(lab, &foreign, &other)?;
        let reset = connect_once(&cast.client, to, Some("not for everybody"))?.reset()?;
        let came = openssl::identity(lab, &host.stdout_so_far());
        ensure!(came.is_err(), "it was told who came: {came:?}");
        Ok(reset)
    });
    Ok(())
}
