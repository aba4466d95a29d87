//! What was on the wire between the nodes, while the conversations were held.
//!
//! One capture for all: the search that finds nothing of the shop finds all of the pair outside the mesh.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;

use super::cast::Cast;
use super::conversations::Conversation;
use super::screen::{Screen, Tone, grouped};
use crate::pcap::{Pcap, Segment};
use crate::pod::Pod;

/// Port of the tunnels.
const HBONE_PORT: u16 = 15008;
/// How many bytes of a packet are shown.
const EXCERPT: usize = 64;
/// First byte of a TLS record with data of applications (RFC 8446, section 5.1).
const APPLICATION_DATA: u8 = 23;

/// The figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Wire {
    /// Of what pods in the mesh said to each other.
    pub(super) meshed_plaintext_bytes: usize,
    /// Of what the pair outside said.
    pub(super) unmeshed_plaintext_bytes: usize,
    /// Begun while the capture ran.
    pub(super) tls_connections: usize,
}

/// Searches the capture and shows what it found.
pub(super) fn judge(
    screen: &mut Screen,
    pcap: &Pcap,
    conversations: &[Conversation],
    cast: &Cast,
) -> Result<Wire> {
    let found = |meshed: bool| -> usize {
        let talks = conversations.iter().filter(|talk| talk.is_meshed() == meshed);
        let texts: BTreeSet<&str> = talks.map(|talk| talk.expected.0).collect();
        texts.iter().map(|text| pcap.count_plaintext(text.as_bytes())).sum()
    };
    let requests = pcap.count_plaintext(b"GET /orders");
    let wire = Wire {
        meshed_plaintext_bytes: found(true) + requests,
        unmeshed_plaintext_bytes: found(false),
        tls_connections: pcap.tls_connections(),
    };
    let style = screen.style();
    let bytes = |count: usize, tone: Tone| style.paint(tone, grouped(count));

    let text = format!(
        "bytes of the shop's payload in plain text: {}",
        bytes(wire.meshed_plaintext_bytes, Tone::Good)
    );
    screen
        .expect(wire.meshed_plaintext_bytes == 0, &text, || format!("they are in {}", pcap.path().display()));

    let sent: usize = conversations
        .iter()
        .filter(|talk| !talk.is_meshed())
        .map(|talk| talk.expected.0.len() * talk.expected.1)
        .sum();
    let text = format!(
        "bytes of legacy's payload in plain text: {} of {}, so the search does find them",
        bytes(wire.unmeshed_plaintext_bytes, Tone::Warn),
        grouped(sent)
    );
    screen.expect(wire.unmeshed_plaintext_bytes >= sent, &text, || "the search is not to be trusted".into());

    let begun = pcap.connections();
    let between = |talk: &Conversation| {
        begun.iter().any(|connection| {
            connection.is_tls
                && talk.from.addresses().contains(&connection.client.ip())
                && talk.to.addresses().contains(&connection.server.ip())
        })
    };
    let crossing: Vec<&Conversation> =
        conversations.iter().filter(|talk| talk.is_meshed() && talk.crosses()).collect();
    let without: Vec<String> = crossing
        .iter()
        .filter(|talk| !between(talk))
        .map(|talk| format!("{} → {}", talk.from.key(), talk.to.key()))
        .collect();
    let text = format!(
        "{} TLS connections, for {} conversations between the nodes",
        wire.tls_connections,
        crossing.len()
    );
    screen.expect(without.is_empty() && wire.tls_connections > 0, &text, || {
        format!("no TLS connection for {}", without.join(", "))
    });

    let is_shop = |pod: &Pod, segment: &Segment| {
        pod.addresses().iter().any(|address| [segment.src.ip(), segment.dst.ip()].contains(address))
    };
    let of_shop: Vec<&Segment> =
        pcap.segments().iter().filter(|segment| cast.enrolled().any(|pod| is_shop(pod, segment))).collect();
    let elsewhere =
        of_shop.iter().filter(|segment| ![segment.src.port(), segment.dst.port()].contains(&HBONE_PORT));
    let other =
        elsewhere.count() + begun.iter().filter(|one| one.server.port() == HBONE_PORT && !one.is_tls).count();
    let text = format!(
        "all {} TCP packets from and to the shop's pods are TLS on port {HBONE_PORT}",
        grouped(of_shop.len())
    );
    screen.expect(other == 0 && !of_shop.is_empty(), &text, || format!("{other} are not"));

    excerpts(screen, pcap, conversations, &of_shop);
    Ok(wire)
}

/// The beginning of one packet of each kind, as a terminal shows it.
fn excerpts(screen: &Screen, pcap: &Pcap, conversations: &[Conversation], of_shop: &[&Segment]) {
    let outside = conversations.iter().find(|talk| !talk.is_meshed());
    let answer = outside.and_then(|talk| {
        let from = |segment: &&Segment| talk.to.addresses().contains(&segment.src.ip());
        let holds = |segment: &&Segment| {
            memchr::memmem::find(pcap.payload(segment), talk.expected.0.as_bytes())
                .map(|at| (pcap.payload(segment), at))
        };
        pcap.segments().iter().filter(from).find_map(|segment| holds(&segment))
    });
    let sealed = of_shop.iter().map(|segment| pcap.payload(segment));
    let sealed = sealed
        .filter(|payload| payload.first() == Some(&APPLICATION_DATA))
        .max_by_key(|payload| payload.len());
    screen.line("");
    let show = |whose: &str, bytes: &[u8], tone: Tone| {
        let text = screen.style().paint(tone, printable(bytes));
        screen.line(format_args!("    a packet of {whose:<8} {text}"));
    };
    if let Some((payload, at)) = answer {
        show("legacy", &payload[at..], Tone::Warn);
    }
    if let Some(payload) = sealed {
        show("shop", payload, Tone::Good);
    }
}

fn printable(bytes: &[u8]) -> String {
    let letter = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
    bytes.iter().take(EXCERPT).map(letter).collect()
}
