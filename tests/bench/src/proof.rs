//! Did it go through the mesh? The agents' own counters say.
//!
//! ```text
//!   before ─▶ window ─▶ after     outbound at the client's agent, inbound at the server's: connections and bytes moved
//!                                 by what the program did, under mutual TLS, and nothing moved in plain text
//! ```
//!
//! On one node the kernel may carry a connection by the agent's leave (`security="kernel"`): that is the mesh too. The pods
//! outside the mesh must never appear at all.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Agent;

use crate::stage::{DIRECT_NAMESPACE, MESH_NAMESPACE, YARDSTICK_NAMESPACE};
use crate::window::Measure;
use crate::works::Path;

/// Counters are moved right after the bytes; this long a lag would be a bug.
const LAG: Duration = Duration::from_secs(2);
/// Share of the program's bytes that must be in the counters: programs count headers and hellos in their own ways.
const SHARE: f64 = 0.95;

/// A sample of the text format: name, labels, value.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: HashMap<String, String>,
    value: f64,
}

/// What one agent counted for the enrolled pods in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Carried {
    /// Under mutual TLS or by the kernel.
    connections: f64,
    bytes: f64,
    /// By the kernel alone; part of the above.
    by_kernel: f64,
    /// Any other way.
    in_plain_text: f64,
}

/// Counters of the client's and the server's agent.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    outbound: Carried,
    inbound: Carried,
}

impl Seen {
    /// Reads both agents' counters. An error if the un-enrolled pods are among them.
    pub fn now(client: &Agent, server: &Agent) -> Result<Self> {
        let of = |agent: &Agent, direction| -> Result<Carried> {
            let samples =
                parse(&agent.metrics().with_context(|| format!("metrics of node {}", agent.node()))?);
            if let Some(sample) = samples.iter().find(|sample| is_outside(sample)) {
                bail!("the agent of node {} has touched pods outside the mesh: {sample:?}", agent.node());
            }
            Ok(carried(&samples, direction))
        };
        Ok(Self { outbound: of(client, "outbound")?, inbound: of(server, "inbound")? })
    }

    /// Whether what the program did since then went through the mesh; the error says what is missing.
    pub fn verify(self, client: &Agent, server: &Agent, path: Path, measure: &Measure) -> Result<()> {
        lab::eventually(LAG, || {
            let now = Self::now(client, server).map_err(|error| format!("{error:#}"))?;
            let outbound = now.outbound.since(self.outbound);
            let inbound = now.inbound.since(self.inbound);
            judge(path, measure, outbound, inbound)
        })
        .context("this did not go through the mesh")
    }
}

impl Carried {
    fn since(self, earlier: Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            bytes: self.bytes - earlier.bytes,
            by_kernel: self.by_kernel - earlier.by_kernel,
            in_plain_text: self.in_plain_text - earlier.in_plain_text,
        }
    }
}

fn judge(path: Path, measure: &Measure, outbound: Carried, inbound: Carried) -> Result<(), String> {
    let wanted = (measure.connections as f64, measure.bytes as f64 * SHARE);
    let by_kernel = outbound.by_kernel + inbound.by_kernel;
    if by_kernel > 0.0 && path == Path::CrossNode {
        return Err(format!("{by_kernel} connections between two nodes without a tunnel"));
    }
    for (name, carried) in [("outbound", outbound), ("inbound", inbound)] {
        if carried.in_plain_text > 0.0 {
            return Err(format!("{name}: {} connections in plain text", carried.in_plain_text));
        }
        // The kernel's own connections are accounted for once, by whichever end closes.
        if by_kernel > 0.0 && carried.connections == 0.0 {
            continue;
        }
        if carried.connections < wanted.0 || carried.bytes < wanted.1 {
            return Err(format!(
                "{name}: {} connections and {} bytes counted, at least {} and {:.0} were made",
                carried.connections, carried.bytes, wanted.0, wanted.1
            ));
        }
    }
    Ok(())
}

fn carried(samples: &[Sample], direction: &str) -> Carried {
    let mut carried = Carried::default();
    for sample in samples {
        let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
        let ends = [label("source_namespace"), label("destination_namespace")];
        if label("direction") != direction || !ends.contains(&MESH_NAMESPACE) {
            continue;
        }
        let inside = ends == [MESH_NAMESPACE; 2] && matches!(label("security"), "mtls" | "kernel");
        match (sample.name.as_str(), inside) {
            ("weft_connections_opened_total", true) => {
                carried.connections += sample.value;
                if label("security") == "kernel" {
                    carried.by_kernel += sample.value;
                }
            }
            ("weft_connections_opened_total", false) => carried.in_plain_text += sample.value,
            ("weft_bytes_total", true) => carried.bytes += sample.value,
            _ => {}
        }
    }
    carried
}

fn is_outside(sample: &Sample) -> bool {
    let names = ["source_namespace", "destination_namespace"];
    let outside = [DIRECT_NAMESPACE, YARDSTICK_NAMESPACE];
    sample.value > 0.0
        && names
            .iter()
            .any(|name| sample.labels.get(*name).is_some_and(|value| outside.contains(&value.as_str())))
}

/// The mesh's own samples of a metrics page. Lines that are none are passed over.
fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| line.starts_with("weft_")).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Sample> {
    let (name, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, rest),
        None => {
            let (name, value) = line.split_once(' ')?;
            return Some(Sample {
                name: name.to_owned(),
                labels: HashMap::new(),
                value: value.parse().ok()?,
            });
        }
    };
    // Our label values are names of Kubernetes and SPIFFE ids: no quote, no brace, no backslash is ever in one.
    let (labels, value) = rest.split_once('}')?;
    let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
    let labels = pairs.map(|pair| {
        let (key, value) = pair.split_once("=\"")?;
        Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    let value = value.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels: labels.collect::<Option<_>>()?, value })
}

#[cfg(test)]
mod tests;
