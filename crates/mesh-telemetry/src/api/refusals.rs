//! Answer of `/v1/refusals`: the last connections that an agent refused, or ended because no policy admits them any more.

use std::net::SocketAddr;

use mesh_model::{Identity, Reason};
use serde::{Deserialize, Serialize};

use super::{ConnectionPath, Direction, Security, Timestamp};

/// A piece of the list, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// The agent's node.
    pub node: String,
    /// Another one after each start of the agent: numbers begin at 1 again.
    pub epoch: u64,
    /// The highest number so far; 0: nothing was refused. To go on, ask for what comes after the last row, or after this
    /// where there is none.
    pub last: u64,
    /// How many of those that were asked for are no longer kept.
    pub lost: u64,
    /// What was asked for.
    pub refusals: Vec<RefusalRow>,
}

/// One of them. The keys are those of the access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// Counts up from 1.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// When, in milliseconds since the epoch.
    pub unix_ms: u64,
    /// The agent's node.
    pub node: String,
    /// What was done.
    pub event: RefusalEvent,
    /// Seen from the pod on this node.
    pub direction: Direction,
    /// Which way its bytes would have gone.
    pub path: ConnectionPath,
    /// What would have protected them.
    pub security: Security,
    /// Why; `meshctl explain-error` says more.
    pub reason: Reason,
    /// Why, in words: the policy and its rule, the peer's answer, the system's error.
    pub detail: String,
    /// The policy that the words name, as `NAMESPACE/NAME`; `null` where they name none.
    pub policy: Option<String>,
    /// Who dialled.
    pub source: RefusedSource,
    /// Who was dialled.
    pub destination: RefusedDestination,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalEvent {
    /// It never began.
    Refused,
    /// It was ended.
    Cut,
}

/// Who dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSource {
    /// Of the pod, where it is one of the mesh's.
    pub namespace: Option<String>,
    /// What the pod is a replica of, likewise.
    pub workload: Option<String>,
    /// The pod, likewise.
    pub pod: Option<String>,
    /// Who it has shown to be; `null` where nobody knows.
    pub identity: Option<Identity>,
    /// Where it dialled from; port 0 where that was not known yet.
    pub address: SocketAddr,
}

/// Who was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedDestination {
    /// Of the pod or the Service.
    pub namespace: Option<String>,
    /// What the pod is a replica of, where it is one of the mesh's.
    pub workload: Option<String>,
    /// The pod, likewise.
    pub pod: Option<String>,
    /// Name of the Service that was dialled, if it was one.
    pub service: Option<String>,
    /// Who it has shown to be; `null` where nobody knows.
    pub identity: Option<Identity>,
    /// Where.
    pub address: SocketAddr,
}

impl RefusalEvent {
    /// The word used in JSON, tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cut => "cut",
        }
    }
}
