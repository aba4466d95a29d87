//! Stand-in for kube-proxy: one nftables table in each node's namespace, rewritten whole when a Service or one of its
//! ready endpoints changes.
//!
//! Destination NAT to a random ready endpoint of the family; whatever else goes to a Service's address (a port without
//! endpoints, or no port of it) is refused, as kube-proxy does.
//! A pod that reaches itself through its Service would get a packet from its own address, so that one case is
//! masqueraded.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::node::Node;

/// Where Services' addresses are from.
pub(crate) const SERVICE_RANGES: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0)), 112),
];

/// A Service's port at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub(crate) service: SocketAddr,
    /// Ready endpoints of the same family.
    pub(crate) endpoints: Vec<SocketAddr>,
}

/// The whole table as a script for `nft -f`, which applies it in one step.
pub(crate) fn script(forwards: &[Forward]) -> String {
    let mut text = String::from(
        "table inet weft-lab-proxy\ndelete table inet weft-lab-proxy\ntable inet weft-lab-proxy {\n",
    );
    let mut dispatch = String::new();
    let mut chains = BTreeSet::new();
    let mut hairpins = BTreeSet::new();
    for forward in forwards {
        let rule = format!(
            "    {} daddr {} tcp dport {}",
            family(forward.service.ip()),
            forward.service.ip(),
            forward.service.port()
        );
        if forward.endpoints.is_empty() {
            continue;
        }
        let _ = write!(dispatch, "{rule} numgen random mod {} vmap {{ ", forward.endpoints.len());
        for (number, endpoint) in forward.endpoints.iter().enumerate() {
            let _ = write!(dispatch, "{number} : goto {}, ", chain(*endpoint));
            chains.insert(*endpoint);
            hairpins.insert(endpoint.ip());
        }
        dispatch.push_str("}\n");
    }
    for endpoint in &chains {
        let _ = writeln!(
            text,
            "  chain {} {{ meta l4proto tcp dnat {} to {endpoint} ; }}",
            chain(*endpoint),
            family(endpoint.ip())
        );
    }
    let _ = writeln!(text, "  chain services {{\n{dispatch}  }}");
    text.push_str("  chain from-pods { type nat hook prerouting priority -100; jump services; }\n");
    text.push_str("  chain from-node { type nat hook output priority -100; jump services; }\n");
    text.push_str("  chain hairpin { type nat hook postrouting priority 100;\n");
    for address in hairpins {
        let word = family(address);
        let _ = writeln!(text, "    {word} saddr {address} {word} daddr {address} masquerade");
    }
    text.push_str("  }\n");
    for (name, hook) in [("refuse-pods", "forward"), ("refuse-node", "output")] {
        let _ = writeln!(text, "  chain {name} {{ type filter hook {hook} priority 0;");
        for (address, prefix) in SERVICE_RANGES {
            let _ = writeln!(
                text,
                "    {} daddr {address}/{prefix} meta l4proto tcp reject with tcp reset",
                family(address)
            );
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

fn chain(endpoint: SocketAddr) -> String {
    let address = endpoint.ip().to_string().replace(['.', ':'], "-");
    format!("to-{address}-{}", endpoint.port())
}

/// Puts the table into a node.
pub(crate) fn apply(node: &Node, script: &str) -> Result<()> {
    node.command(["nft", "-f", "-"])?.log("nft").input(script).run()?.ok()?;
    Ok(())
}
