//! Services written as an API server would have them, and who answers at their addresses.
//!
//! The lab's own Services are all alike; these say what their tests are about. Whoever is behind one announces itself with a
//! line (`weft-lab-peer banner`), so that a client can tell who was chosen.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Agent, Lab, Node, Pod, Process, eventually, programs};
use serde_json::Value;

/// How long agents may take to hear of a Service.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one connection may take.
const STEP: Duration = Duration::from_secs(10);
/// How many connections for each wanted outcome before it counts as missing.
const MOST: usize = 30;

/// A Service and its slices, to be written.
#[derive(Clone, Debug)]
pub struct Written {
    name: String,
    text: String,
    slices: usize,
}

impl Written {
    /// `shop/NAME` with these fields of its spec (YAML in flow style).
    pub fn new(name: &str, spec: &str) -> Self {
        Self::labelled(name, "", spec, "")
    }

    /// The same with labels and fields of its status.
    pub fn labelled(name: &str, labels: &str, spec: &str, status: &str) -> Self {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\n\
             spec: {{{spec}}}\nstatus: {{{status}}}\n"
        );
        Self { name: name.to_owned(), text, slices: 0 }
    }

    /// A slice with these ports and endpoints, in flow style.
    #[must_use]
    pub fn slice(mut self, ports: &str, endpoints: &[String]) -> Self {
        let (name, number) = (&self.name, self.slices);
        let family = if endpoints.iter().any(|one| one.contains("::")) { "IPv6" } else { "IPv4" };
        let _ = write!(
            self.text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
             metadata: {{name: {name}-{number}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             ports: [{ports}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        );
        self.slices += 1;
        self
    }

    /// Writes it, in place of what was written under its name before.
    pub fn put(&self, lab: &Lab) -> Result<()> {
        lab.write_object(&format!("written-{}.yaml", self.name), &self.text)
    }

    /// Likewise for a new one; returns once this agent and its hooks know it: a dial before that may go nowhere, for seconds.
    pub fn put_known(&self, lab: &Lab, agent: &Agent) -> Result<()> {
        self.put(lab)?;
        row(agent, &self.name, |_| true).map(|_| ())
    }
}

/// An endpoint at an address, with further fields.
pub fn endpoint(address: impl Into<IpAddr>, rest: &str) -> String {
    format!("{{addresses: ['{}'], {rest}}}", address.into())
}

/// A server in a pod that says who it is.
pub fn announce(pod: &Pod, port: u16, name: &str) -> Result<Process> {
    Ok(programs::peer(pod, "banner", port, &["--text", name])?.process)
}

/// The same on a node, at one of its own addresses.
pub fn announce_on_node(node: &Node, at: SocketAddr, name: &str) -> Result<Process> {
    let at_text = at.to_string();
    let mut process =
        node.command(["weft-lab-peer", "banner", "--listen", &at_text, "--text", name])?.spawn()?;
    let hears =
        || node.netns_thread(|| std::net::TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok());
    eventually(PATIENCE, || match hears() {
        Ok(true) => Ok(()),
        Ok(false) if process.is_running() => Err(format!("nobody listens at {at}")),
        Ok(false) => Err(process.failure_report()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    Ok(process)
}

/// What a connection comes to: the name of who answers, `refused` (by connect itself) or `reset`.
pub fn outcome(from: &Pod, to: SocketAddr) -> Result<String> {
    let stream = match from.connect(to, STEP)? {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok("refused".into()),
        // The RST was there before this thread ran again: the connection stood all the same.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok("reset".into()),
        Err(error) => return Ok(error.to_string()),
    };
    stream.set_read_timeout(Some(STEP))?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(0) => bail!("a clean end from {to} without a word"),
        Ok(_) => Ok(line.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok("reset".into()),
        Err(error) => Ok(error.to_string()),
    }
}

/// Exactly these outcomes come of connections, all of them, from now on. (An older state may be in force for a moment.)
pub fn leads_to(from: &Pod, to: SocketAddr, wanted: &[&str]) -> Result<String> {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let some = |count: usize| -> Result<BTreeSet<String>> { (0..count).map(|_| outcome(from, to)).collect() };
    let who = || format!("{} to {to}", from.key());
    eventually(PATIENCE, || {
        let seen = some(2 * wanted.len()).map_err(|error| format!("{error:#}"))?;
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?} instead of {wanted:?}")) }
    })
    .with_context(who)?;
    // Endpoints take turns, but not for each client separately.
    let mut seen = BTreeSet::new();
    for number in 0..MOST * wanted.len() {
        if number >= 4 * wanted.len() && seen == wanted {
            break;
        }
        let one = outcome(from, to)?;
        ensure!(wanted.contains(&one), "{}: {one} instead of {wanted:?}, connection {number}", who());
        seen.insert(one);
    }
    ensure!(seen == wanted, "{}: {seen:?} instead of {wanted:?}", who());
    Ok(wanted.into_iter().collect::<Vec<_>>().join(", "))
}

/// An agent's row for `shop/NAME`, once it is as wanted.
pub fn row(agent: &Agent, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(PATIENCE, || {
        let rows = agent.admin("/v1/services").map_err(|error| format!("{error:#}"))?;
        let all = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        match all.iter().find(|row| row["namespace"] == "shop" && row["name"] == name) {
            Some(row) if wanted(row) => Ok(row.clone()),
            Some(row) => Err(row.to_string()),
            None => Err(format!("no Service shop/{name}")),
        }
    })
    .with_context(|| format!("wait for shop/{name} on {}", agent.node()))
}

/// How many connections an agent, or its kernel half, has refused for a reason.
pub fn refusals(agent: &Agent, reason: &str) -> Result<u64> {
    let label = format!("reason=\"{reason}\"");
    let counted = |line: &&str| {
        (line.starts_with("weft_connections_failed_total{") || line.starts_with("weft_kernel_refused_total{"))
            && line.contains(&label)
    };
    let text = agent.metrics()?;
    let numbers =
        text.lines().filter(counted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(numbers.sum::<f64>() as u64)
}

/// The outcome, and that it is counted under this reason. (Before the agent knows the Service, the outcome may be the same
/// for another reason: so it is dialled until it is this one.)
pub fn refused_for(agent: &Agent, from: &Pod, to: SocketAddr, outcome: &str, reason: &str) -> Result<String> {
    leads_to(from, to, &[outcome])?;
    let before = refusals(agent, reason)?;
    eventually(PATIENCE, || {
        let seen = self::outcome(from, to).map_err(|error| format!("{error:#}"))?;
        let counted = refusals(agent, reason).map_err(|error| format!("{error:#}"))?;
        match seen == outcome && counted > before {
            true => Ok(format!("{outcome}, {reason}")),
            false => Err(format!("{seen}, and {reason} was counted {before} times before and now {counted}")),
        }
    })
}
