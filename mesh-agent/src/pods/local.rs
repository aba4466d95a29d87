//! What the rest of the agent is told of this node's pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mesh_telemetry::preflight::Check;

use crate::kernel::lower::LocalPods;
use crate::netns::Netns;

/// Who is captured here, and whether a pod can be told from another by its address.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Captured pods, by the cookies of their namespaces.
    pub pods: LocalPods,
    /// Their namespaces.
    pub netns: HashMap<u64, Arc<Netns>>,
    /// Pods that run and are not guarded: while there are any, no connection goes directly.
    pub unguarded: Vec<Unguarded>,
    /// Namespaces of pods that are on their way in: who dialled from there may be known soon.
    pub pending: HashSet<u64>,
    /// All cgroups were looked at, and all pods heard of: who is not in here is not captured, and nobody is missing above.
    pub whole: bool,
}

/// What `meshctl check` names before the rest is counted.
const NAMED: usize = 5;

impl Local {
    /// Whether it is certain that no captured pod has this namespace.
    pub fn is_nobodys(&self, cookie: u64) -> bool {
        self.whole && !self.pods.contains_key(&cookie) && !self.pending.contains(&cookie)
    }

    /// Whether connections between pods of this node may go directly, for `meshctl check`.
    pub fn check(&self) -> Check {
        const NAME: &str = "direct_path";
        if self.unguarded.is_empty() {
            return match self.whole {
                true => Check::pass(
                    NAME,
                    "every pod of this node is guarded: its connections to others may go directly",
                ),
                false => Check::pass(NAME, "the pods of this node are not all known yet"),
            };
        }
        let mut named: Vec<String> =
            self.unguarded.iter().take(NAMED).map(|one| format!("{}: {}", one.what, one.why)).collect();
        if self.unguarded.len() > NAMED {
            named.push(format!("and {} more", self.unguarded.len() - NAMED));
        }
        Check::warn(
            NAME,
            format!("connections between pods of this node go through tunnels: {}", named.join("; ")),
            "a pod is guarded on the host's side of its veth (Linux 6.6 or newer), to which the host's route to the pod must lead \
             (docs/kernels.md)",
        )
    }
}

impl PartialEq for Local {
    fn eq(&self, other: &Self) -> bool {
        // A namespace is known by its cookie.
        self.pods == other.pods
            && self.unguarded == other.unguarded
            && self.whole == other.whole
            && self.pending == other.pending
    }
}

/// What stands in the way of direct connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unguarded {
    /// A pod, by its name or UID, or the kernel.
    pub what: String,
    /// Why.
    pub why: String,
}
