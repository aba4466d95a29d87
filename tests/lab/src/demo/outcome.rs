//! What came of it all: a table for people, JSON for scripts.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::conversations::{Conversation, Protection};
use super::screen::{Screen, Tone, grouped, table as draw};
use super::wire::Wire;

#[cfg(test)]
mod tests;

/// The report's shape. Scripts read it: keys keep their names and meanings.
#[derive(Debug, Serialize)]
struct Report<'a> {
    conversations: Vec<Entry<'a>>,
    wire: Wire,
    /// Building is not in it.
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    from: String,
    to: String,
    identity_from: Option<&'a str>,
    identity_to: Option<&'a str>,
    captured: bool,
    ok: bool,
}

impl<'a> From<&'a Conversation> for Entry<'a> {
    fn from(conversation: &'a Conversation) -> Self {
        Self {
            from: conversation.from.key(),
            to: conversation.to.key(),
            identity_from: conversation.identity_from(),
            identity_to: conversation.identity_to(),
            captured: conversation.captured(),
            ok: conversation.ok(),
        }
    }
}

/// The table at the end.
pub(super) fn table(screen: &Screen, conversations: &[Conversation], wire: &Wire) {
    let row = |conversation: &Conversation| {
        let (protection, result) = (conversation.protection(), conversation.ok());
        let tone = match protection {
            Protection::MutualTls | Protection::Kernel => Tone::Good,
            Protection::None => Tone::Warn,
            Protection::NotSeen => Tone::Bad,
        };
        let who = match (conversation.identity_from(), conversation.identity_to()) {
            (Some(from), Some(to)) => format!("{}, {}", short(from), short(to)),
            _ => "an address only".to_owned(),
        };
        vec![
            (Tone::Plain, conversation.from.key()),
            (Tone::Plain, conversation.to.key()),
            (Tone::Plain, conversation.programs.to_owned()),
            (Tone::Plain, if conversation.crosses() { "a → b" } else { "on a" }.to_owned()),
            (tone, protection.words().to_owned()),
            (if protection.is_some() { Tone::Name } else { Tone::Dim }, who),
            if result { (Tone::Good, "✓".to_owned()) } else { (Tone::Bad, "✗".to_owned()) },
        ]
    };
    let rows: Vec<_> = conversations.iter().map(row).collect();
    let headers = ["FROM", "TO", "PROGRAMS", "NODES", "BETWEEN THEM", "WHO THE OTHER SIDE SAW", ""];
    for line in draw(screen.style(), &headers, &rows) {
        screen.line(line);
    }
    screen.note("sa/web is short for spiffe://lab.weft.dev/ns/shop/sa/web");
    let line = |what: &str, bytes: usize, tone: Tone| {
        let bytes = screen.style().paint(tone, format_args!("{:>7}", grouped(bytes)));
        screen.line(format_args!("  {bytes} {what}"));
    };
    screen.line("");
    let tone = if wire.meshed_plaintext_bytes == 0 { Tone::Good } else { Tone::Bad };
    line("bytes of the shop's payload in plain text on the wire", wire.meshed_plaintext_bytes, tone);
    line("of the pair outside the mesh, on the same wire", wire.unmeshed_plaintext_bytes, Tone::Warn);
}

/// The end of a SPIFFE ID.
fn short(identity: &str) -> &str {
    identity.find("/sa/").map_or(identity, |at| &identity[at + 1..])
}

/// Writes the report.
pub(super) fn write(file: &Path, conversations: &[Conversation], wire: &Wire, seconds: f64) -> Result<()> {
    let report =
        Report { conversations: conversations.iter().map(Entry::from).collect(), wire: *wire, seconds };
    std::fs::write(file, render(&report)?).with_context(|| format!("write the report to {}", file.display()))
}

fn render(report: &Report<'_>) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}
