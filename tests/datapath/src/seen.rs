//! What can be seen of the mesh from outside: SYNs on the wire, and rows of the agents' connection tables.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Agent, Capture, Lab, Pod};
use serde_json::Value;

const SYNS: &str = "(tcp[tcpflags] & tcp-syn != 0) or (ip6 and tcp and ip6[53] & 2 != 0)";

/// Watches for SYNs on a node's wire, which is cheap also under bulk.
pub fn watch_syns(lab: &Lab, node: &str) -> Result<Capture> {
    lab.capture_wire_with(node, SYNS, 0)
}

/// Ends the watch: no connection was begun to these ports of the pod in plain text, and there were tunnels to it.
pub fn only_tunnels_to(capture: Capture, pod: &Pod, ports: &[u16]) -> Result<String> {
    let pcap = capture.stop()?;
    let to = |address: IpAddr, port| pcap.plaintext_syns_to(address, port);
    for address in pod.addresses() {
        for port in ports {
            let seen = to(address, *port);
            ensure!(seen == 0, "{seen} SYNs in plain text to {address}:{port}");
        }
    }
    let tunnels: usize = pod.addresses().into_iter().map(|address| to(address, 15008)).sum();
    ensure!(tunnels > 0, "no tunnel either");
    Ok(format!("0 SYNs to {} ports, {tunnels} to 15008", ports.len()))
}

/// The row of an agent's table for a connection that runs: by direction, by who dialled (without the port if that is 0),
/// and by the endpoint's own address.
pub fn connection(agent: &Agent, direction: &str, client: SocketAddr, endpoint: SocketAddr) -> Result<Value> {
    connection_within(Duration::from_secs(5), agent, direction, client, endpoint)
}

/// The same, for one that may have none: what the kernel leaves as dialled is in no table.
pub fn connection_within(
    patience: Duration,
    agent: &Agent,
    direction: &str,
    client: SocketAddr,
    endpoint: SocketAddr,
) -> Result<Value> {
    let address = |row: &Value, end: &str| row[end]["addr"].as_str().and_then(|text| text.parse().ok());
    let found = |row: &&Value| {
        let from: Option<SocketAddr> = address(row, "src");
        row["direction"] == direction
            && address(row, "dst") == Some(endpoint)
            && from.is_some_and(|from| from.ip() == client.ip() && [0, from.port()].contains(&client.port()))
    };
    lab::eventually(patience, || {
        let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
        rows.iter().find(found).cloned().ok_or_else(|| Value::from(rows.clone()).to_string())
    })
    .with_context(|| {
        format!("look for {client} to {endpoint}, {direction}, in the table of the agent on {}", agent.node())
    })
}

/// How often an agent's hooks did something: a word of `weft_kernel_events_total`.
pub fn kernel_events(agent: &Agent, event: &str) -> Result<u64> {
    let sample = format!("weft_kernel_events_total{{event=\"{event}\"}} ");
    let text = agent.metrics()?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(&sample)).with_context(|| format!("no {sample}"))?;
    Ok(value.trim().parse::<f64>()? as u64)
}

/// The identity that a pod has to have.
pub fn identity(pod: &Pod) -> String {
    format!("spiffe://{}/ns/{}/sa/{}", lab::TRUST_DOMAIN, pod.namespace(), pod.service_account())
}
