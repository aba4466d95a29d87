//! A node as if it had never had an agent.

use anyhow::{Result, ensure};
use lab::Lab;

/// Ends a node's agent and takes away what it has left in the kernel.
pub fn forget_agent(lab: &Lab, node: &str) -> Result<()> {
    lab.agent(node).kill();
    let program = lab::binary("mesh-agent")?;
    let bpffs = lab.place().bpffs(node);
    let reset = [program.as_os_str(), "reset".as_ref(), "--bpffs".as_ref(), bpffs.as_os_str()];
    lab.node(node).command(reset)?.run()?.ok()?;
    ensure!(!bpffs.join("weft").exists(), "pins are left in {}", bpffs.display());
    Ok(())
}
