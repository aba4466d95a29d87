//! A few lines of the agents' metrics, in the words of `docs/metrics.md`.

use std::collections::BTreeMap;

use anyhow::Result;

use super::conversations::Conversation;
use super::screen::{Screen, Tone};
use crate::lab::Lab;
use crate::pod::Pod;

#[cfg(test)]
mod tests;

/// One line of the text format.
#[derive(Debug, PartialEq, Eq)]
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, &'a str>,
    value: &'a str,
}

impl Sample<'_> {
    fn label(&self, key: &str) -> &str {
        self.labels.get(key).copied().unwrap_or_default()
    }

    fn number(&self) -> f64 {
        self.value.parse().unwrap_or_default()
    }

    /// Whether it counts this pair of workloads, seen from the source.
    fn is_of(&self, talk: &Conversation) -> bool {
        self.label("direction") == "outbound"
            && self.is_end("source", &talk.from)
            && self.is_end("destination", &talk.to)
    }

    /// Whether this pod is at an end of what it counts.
    fn is_end(&self, end: &str, pod: &Pod) -> bool {
        self.label(&format!("{end}_namespace")) == pod.namespace()
            && self.label(&format!("{end}_workload")) == pod.name()
    }

    /// The line with as many labels as a terminal is wide, and what stands out of it.
    fn shortened(&self) -> String {
        let end = |end: &str| {
            format!("{}/{}", self.label(&format!("{end}_namespace")), self.label(&format!("{end}_workload")))
        };
        let mut words = Vec::new();
        if self.labels.contains_key("source_workload") {
            words.push(format!("source={}", end("source")));
            words.push(format!("destination={}", end("destination")));
        }
        for key in ["flow", "security", "role", "result", "event", "state"] {
            if let Some(value) = self.labels.get(key) {
                words.push(format!("{key}={value}"));
            }
        }
        format!("{}{{{}}}", self.name, words.join(" "))
    }
}

/// Shows them, and holds them against what is known to have happened.
pub(super) fn show(screen: &mut Screen, lab: &Lab, conversations: &[Conversation]) -> Result<()> {
    let text = lab.agent("a").metrics()?;
    let samples: Vec<Sample<'_>> = text.lines().filter_map(parse).collect();
    let meshed: Vec<&Conversation> = conversations.iter().filter(|talk| talk.is_meshed()).collect();
    let opened = |talk: &&&Conversation| {
        let counts =
            |sample: &&Sample<'_>| sample.name == "weft_connections_opened_total" && sample.is_of(talk);
        samples.iter().find(counts).is_some_and(|sample| sample.number() >= 1.0)
    };
    let missing: Vec<String> = meshed
        .iter()
        .filter(|talk| !opened(talk))
        .map(|talk| format!("{} → {}", talk.from.key(), talk.to.key()))
        .collect();
    screen.expect(
        missing.is_empty(),
        "node a's agent has counted every conversation by who and whom",
        || format!("not counted: {}", missing.join(", ")),
    );
    let redirected = |sample: &&Sample<'_>| sample.label("event") == "redirected";
    let interesting = |sample: &&Sample<'_>| match sample.name {
        "weft_connections_opened_total" => meshed.iter().any(|talk| sample.is_of(talk)),
        "weft_bytes_total" => meshed.first().is_some_and(|talk| sample.is_of(talk)),
        "weft_tls_handshakes_total" => true,
        "weft_kernel_events_total" => redirected(sample),
        "weft_pods" => sample.number() > 0.0,
        _ => false,
    };
    let mut lines: Vec<(String, &str)> =
        samples.iter().filter(interesting).map(|sample| (sample.shortened(), sample.value)).collect();
    lines.sort_unstable();
    let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or_default();
    for (line, value) in lines {
        screen.line(format_args!("    {line:<width$}  {}", screen.style().paint(Tone::Name, value)));
    }
    screen.note("as node a's agent serves them at :15020/metrics, with more labels than fit here");
    Ok(())
}

/// A line of the text format, if it is a sample of ours. No label value of Weft holds a quote.
fn parse(line: &str) -> Option<Sample<'_>> {
    if !line.starts_with("weft_") {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series, labels: BTreeMap::new(), value });
    };
    let pairs = labels.strip_suffix("\"}").unwrap_or_default().split("\",");
    let labels = pairs.filter_map(|pair| pair.split_once("=\"")).collect();
    Some(Sample { name, labels, value })
}
