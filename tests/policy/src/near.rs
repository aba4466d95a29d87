//! The server on the clients' own node under a policy that admits `client` alone, so that whoever gets through in any other way
//! than the direct one is seen.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Pod};
use serde_json::Value;

use crate::cast::Cast;
use crate::enforce::Policy;
use crate::open::Open;
use crate::talk::{Outcome, talk};

/// Admits `client` and nobody without identity.
pub const CLIENT_ONLY: Policy<'_> = Policy {
    key: "shop/client-only",
    spec: "targetRefs: [{kind: Namespace}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: client}}]}]",
};

/// The two address families, for rows about both: name, and whether it is IPv6.
pub const FAMILIES: [(&str, bool); 2] = [("IPv4", false), ("IPv6", true)];

/// Runs a shell's line in a pod.
pub fn shell(pod: &Pod, script: &str) -> Result<String> {
    Ok(pod.exec(["sh", "-ec", script])?.ok()?.text())
}

/// The same on a pod's node.
pub fn node_shell(pod: &Pod, script: &str) -> Result<String> {
    Ok(pod.node().command(["sh", "-ec", script])?.run()?.ok()?.text())
}

/// It goes directly, by the word of the clients' agent.
pub fn is_direct(lab: &Lab, open: &Open) -> Result<()> {
    goes(lab, open, "direct", "kernel")
}

/// It goes this way, by the word of the clients' agent, and has an identity.
pub fn goes(lab: &Lab, open: &Open, path: &str, security: &str) -> Result<()> {
    let row = open.row(lab.agent("a"))?.context("it has no row")?;
    ensure!(row["path"] == path && row["security"] == security, "{row}");
    ensure!(row["src"]["identity"] != Value::Null, "{row}");
    Ok(())
}

/// Who is not the client is refused, whether the mesh knows it or not.
pub fn others_are_refused(cast: &Cast, to: SocketAddr) -> Result<()> {
    for (who, pod) in [("cart", &cast.cart), ("a stranger", &cast.stranger)] {
        let outcome = talk(pod, to)?;
        ensure!(outcome == Outcome::Refused, "{who}: {outcome}");
    }
    Ok(())
}
