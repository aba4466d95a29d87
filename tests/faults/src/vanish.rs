//! A node that vanishes: from one moment on every packet from and to the other nodes is dropped. Nobody is told: no RST,
//! no ICMP, no carrier lost.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use lab::Node;

const TABLE: &str = "weft-lab-vanish";

/// A node that nobody hears of. Back when dropped.
#[derive(Debug)]
pub struct Vanished {
    node: Arc<Node>,
    /// Since when.
    pub since: Instant,
}

/// Cuts a node off.
pub fn vanish(node: &Arc<Node>) -> Result<Vanished> {
    // Before connection tracking and behind everything else: whatever comes in or goes out by the wire.
    let rules = format!(
        "table inet {TABLE} {{\n\
           chain hear {{ type filter hook prerouting priority -400; iifname \"wire\" drop; }}\n\
           chain say {{ type filter hook postrouting priority 400; oifname \"wire\" drop; }}\n\
         }}"
    );
    node.command(["nft", &rules])?.run()?.ok()?;
    Ok(Vanished { node: node.clone(), since: Instant::now() })
}

impl Vanished {
    /// Lets it be heard again.
    pub fn come_back(self) -> Result<()> {
        // What `drop` does, with its outcome.
        let node = self.node.clone();
        std::mem::forget(self);
        restore(&node)
    }
}

impl Drop for Vanished {
    fn drop(&mut self) {
        if let Err(error) = restore(&self.node) {
            eprintln!("{} stays cut off: {error:#}", self.node.name());
        }
    }
}

fn restore(node: &Node) -> Result<()> {
    node.command(["nft", "delete", "table", "inet", TABLE])?.run()?.ok()?;
    Ok(())
}
