//! Did it go the way that the row says? The agents' own counters, and those of the hooks, tell.
//!
//! ```text
//!   before ─▶ window ─▶ after     what moved must be what the program did, and nothing else may have moved
//!
//!   cross-node   outbound at the client's agent, inbound at the server's, under mutual TLS
//!   same-node    hooks sent the connects directly and admitted them; both directions as the kernel counted them
//!   outside      hooks left the connects as they were dialled; outbound as the kernel counted it
//! ```
//!
//! Nothing may be in plain text but what was left. The pods outside the mesh must never appear as those who dial.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::Agent;

use crate::stage::{DIRECT_NAMESPACE, MESH_NAMESPACE, YARDSTICK_NAMESPACE};
use crate::window::Measure;
use crate::works::Path;
use samples::{Sample, parse};

mod samples;

/// Counters are moved right after the bytes; this long a lag would be a bug.
const LAG: Duration = Duration::from_secs(2);
/// Share of the program's bytes that must be in the counters: programs count headers and hellos in their own ways.
const SHARE: f64 = 0.95;
/// What an end is called that is no workload of the mesh.
const UNKNOWN: &str = "unknown";

/// Connections and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    connections: f64,
    bytes: f64,
}

/// What one agent counted for the enrolled pods in one direction, by who carried it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Carried {
    /// Agents, under mutual TLS.
    tunnel: Count,
    /// The kernel, between pods of one node.
    kernel: Count,
    /// The kernel, to what is outside the mesh.
    left: Count,
    /// Any other way: connections.
    in_plain_text: f64,
}

/// What the hooks of the client's node did with connects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hooks {
    /// Sent to the agent.
    redirected: f64,
    /// Sent to a pod of the node.
    direct: f64,
    /// Of those, handed to the application.
    admitted: f64,
    /// Not touched.
    left: f64,
}

/// Counters of the client's and the server's agent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    outbound: Carried,
    inbound: Carried,
    hooks: Hooks,
}

impl Seen {
    /// Reads both agents' counters. An error if the un-enrolled pods are among them.
    pub fn now(client: &Agent, server: &Agent) -> Result<Self> {
        let of = |agent: &Agent| -> Result<Vec<Sample>> {
            let samples =
                parse(&agent.metrics().with_context(|| format!("metrics of node {}", agent.node()))?);
            if let Some(sample) = samples.iter().find(|sample| is_outside(sample)) {
                bail!("the agent of node {} has touched pods outside the mesh: {sample:?}", agent.node());
            }
            Ok(samples)
        };
        let (client, server) = (of(client)?, of(server)?);
        Ok(Self {
            outbound: carried(&client, "outbound"),
            inbound: carried(&server, "inbound"),
            hooks: hooks(&client),
        })
    }

    /// Whether what the program did since then went the way that the path stands for; the error says what is missing.
    pub fn verify(self, client: &Agent, server: &Agent, path: Path, measure: &Measure) -> Result<()> {
        lab::eventually(LAG, || {
            let now = Self::now(client, server).map_err(|error| format!("{error:#}"))?;
            judge(path, measure, &now.since(&self))
        })
        .with_context(|| format!("this did not go the way of {path}"))
    }

    /// How many connections through tunnels were counted since then: at the client's agent, and at the server's.
    pub fn tunnelled_since(&self, earlier: &Self) -> [f64; 2] {
        let moved = self.since(earlier);
        [moved.outbound.tunnel.connections, moved.inbound.tunnel.connections]
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            outbound: self.outbound.since(&earlier.outbound),
            inbound: self.inbound.since(&earlier.inbound),
            hooks: self.hooks.since(&earlier.hooks),
        }
    }
}

impl Count {
    fn since(self, earlier: Self) -> Self {
        Self { connections: self.connections - earlier.connections, bytes: self.bytes - earlier.bytes }
    }
}

impl Carried {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            tunnel: self.tunnel.since(earlier.tunnel),
            kernel: self.kernel.since(earlier.kernel),
            left: self.left.since(earlier.left),
            in_plain_text: self.in_plain_text - earlier.in_plain_text,
        }
    }
}

impl Hooks {
    fn since(&self, earlier: &Self) -> Self {
        Self {
            redirected: self.redirected - earlier.redirected,
            direct: self.direct - earlier.direct,
            admitted: self.admitted - earlier.admitted,
            left: self.left - earlier.left,
        }
    }
}

fn judge(path: Path, measure: &Measure, moved: &Seen) -> Result<(), String> {
    let Seen { outbound, inbound, hooks } = moved;
    for (name, carried) in [("outbound", outbound), ("inbound", inbound)] {
        none(carried.in_plain_text, &format!("{name}: connections in plain text"))?;
    }
    let wanted = measure.connections as f64;
    match path {
        Path::CrossNode => {
            none(
                outbound.kernel.connections + hooks.direct,
                "connections between two nodes without a tunnel",
            )?;
            none(outbound.left.connections + hooks.left, "connections that were left in plain text")?;
            at_least(hooks.redirected, wanted, "connects that were sent to the agent")?;
            enough("outbound, by tunnel", outbound.tunnel, measure)?;
            enough("inbound, by tunnel", inbound.tunnel, measure)
        }
        Path::SameNode => {
            none(hooks.redirected, "connects that were sent to the agent")?;
            none(hooks.left + outbound.left.connections, "connections that were left in plain text")?;
            none(outbound.tunnel.connections + inbound.tunnel.connections, "connections through a tunnel")?;
            at_least(hooks.direct, wanted, "connects that were sent directly")?;
            at_least(hooks.admitted, wanted, "direct connections that were admitted")?;
            enough("outbound, by the kernel", outbound.kernel, measure)?;
            enough("inbound, by the kernel", inbound.kernel, measure)
        }
        Path::Outside => {
            none(hooks.redirected, "connects that were sent to the agent")?;
            none(outbound.tunnel.connections + outbound.kernel.connections, "connections into the mesh")?;
            at_least(hooks.left, wanted, "connects that were left as they were dialled")?;
            enough("outbound, left", outbound.left, measure)
        }
    }
}

fn none(count: f64, what: &str) -> Result<(), String> {
    if count > 0.0 { Err(format!("{count} {what}")) } else { Ok(()) }
}

fn at_least(count: f64, wanted: f64, what: &str) -> Result<(), String> {
    if count < wanted { Err(format!("{count} {what}, at least {wanted} were made")) } else { Ok(()) }
}

fn enough(name: &str, count: Count, measure: &Measure) -> Result<(), String> {
    let (connections, bytes) = (measure.connections as f64, measure.bytes as f64 * SHARE);
    if count.connections < connections || count.bytes < bytes {
        return Err(format!(
            "{name}: {} connections and {} bytes counted, at least {connections} and {bytes:.0} were made",
            count.connections, count.bytes
        ));
    }
    Ok(())
}

fn carried(samples: &[Sample], direction: &str) -> Carried {
    let mut carried = Carried::default();
    for sample in samples {
        let ends = [sample.label("source_namespace"), sample.label("destination_namespace")];
        if sample.label("direction") != direction || !ends.contains(&MESH_NAMESPACE) {
            continue;
        }
        let is_inside = ends == [MESH_NAMESPACE; 2];
        let count = match sample.label("security") {
            "mtls" if is_inside => Some(&mut carried.tunnel),
            "kernel" if is_inside => Some(&mut carried.kernel),
            // The kernel counts without the address; what an agent relays to a pod that the mesh knows has that one's names.
            "plaintext" if direction == "outbound" && ends[1] == UNKNOWN => Some(&mut carried.left),
            _ => None,
        };
        match (sample.name.as_str(), count) {
            ("weft_connections_opened_total", Some(count)) => count.connections += sample.value,
            ("weft_connections_opened_total", None) => carried.in_plain_text += sample.value,
            ("weft_bytes_total", Some(count)) => count.bytes += sample.value,
            _ => {}
        }
    }
    carried
}

fn hooks(samples: &[Sample]) -> Hooks {
    let of = |event: &str| {
        let counted =
            |sample: &&Sample| sample.name == "weft_kernel_events_total" && sample.label("event") == event;
        samples.iter().filter(counted).map(|sample| sample.value).sum()
    };
    Hooks { redirected: of("redirected"), direct: of("direct"), admitted: of("admitted"), left: of("left") }
}

/// That a pod of the mesh dialled one outside is no touch: it is judged with the window in which it happened.
fn is_outside(sample: &Sample) -> bool {
    let outside = |end: &str| [DIRECT_NAMESPACE, YARDSTICK_NAMESPACE].contains(&sample.label(end));
    let dialled = outside("destination_namespace") && sample.label("source_namespace") != MESH_NAMESPACE;
    sample.value > 0.0 && (outside("source_namespace") || dialled)
}

#[cfg(test)]
mod tests;
