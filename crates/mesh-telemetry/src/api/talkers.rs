//! Who talks to whom, pair by pair: what `meshctl top` measures rates by.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ConnectionPath, ConnectionRow, Direction, Security};

/// Totals of one pair. Counters: they only go up while the agent runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkerRow {
    /// Who talks to whom, and how.
    #[serde(flatten)]
    pub pair: TalkerPair,
    /// Connections that are open.
    pub open: u64,
    /// Connections begun.
    pub opened: u64,
    /// Connections refused, failed or cut.
    pub failed: u64,
    /// Bytes from source to destination.
    pub bytes_sent: u64,
    /// Bytes back.
    pub bytes_received: u64,
    /// Sum of the time that connects took, in microseconds; `null` where it is not measured.
    pub connect_us: Option<u64>,
    /// How many connects that sum is of.
    pub connects: u64,
}

/// Who talks to whom, and how.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TalkerPair {
    /// Seen from the pod on this node.
    pub direction: Direction,
    /// Which way the bytes go; `null` where the totals are of several.
    pub path: Option<ConnectionPath>,
    /// What protects them.
    pub security: Security,
    /// Who dials.
    pub source: Talker,
    /// Who is dialled.
    pub destination: Talker,
    /// The Service that is dialled, if it is one.
    pub service: Option<String>,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Talker {
    /// Its namespace, where it is one of the mesh's.
    pub namespace: Option<String>,
    /// What it is: a workload or a pod, or an address outside the mesh.
    pub name: String,
}

impl From<&ConnectionRow> for TalkerPair {
    fn from(row: &ConnectionRow) -> Self {
        let end = |namespace: &Option<String>, name: &Option<String>, address: IpAddr| match name {
            Some(name) => Talker { namespace: namespace.clone(), name: name.clone() },
            None => Talker { namespace: None, name: address.to_string() },
        };
        Self {
            direction: row.direction,
            path: Some(row.path),
            security: row.security,
            source: end(&row.src.namespace, &row.src.name, row.src.addr.ip()),
            destination: end(&row.dst.namespace, &row.dst.name, row.dst.addr.ip()),
            service: row.dst.service.clone(),
        }
    }
}

impl TalkerRow {
    /// Nothing yet.
    pub fn new(pair: TalkerPair) -> Self {
        let (open, opened, failed, bytes_sent, bytes_received, connects) = (0, 0, 0, 0, 0, 0);
        Self { pair, open, opened, failed, bytes_sent, bytes_received, connect_us: None, connects }
    }
}
