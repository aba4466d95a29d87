//! Who talked to whom, as agents tell the controller: the one thing on the wire that is about connections.
//!
//! What came in is checked, not believed to be well formed: a pair that cannot be read is an error, and no more than that pair.

use std::net::IpAddr;
use std::time::Duration;

use mesh_model::{Identity, Uid};

use crate::proto;

/// Who talked to a captured pod of an agent's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who it has shown to be.
    pub identity: Option<Identity>,
    /// The client's pod, where it is one of the mesh's.
    pub source: Option<Uid>,
    /// Where it dialled from.
    pub address: IpAddr,
    /// The pod that was dialled.
    pub uid: Uid,
    /// The pod's own port.
    pub port: u16,
    /// How often, as far as the agent remembers.
    pub connections: u64,
    /// How long ago the last one was, to the second.
    pub ago: Duration,
}

/// A pair that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} of an observation cannot be read: {value}")]
pub struct NotSeen {
    field: &'static str,
    value: String,
}

impl From<Seen> for proto::Observation {
    fn from(seen: Seen) -> Self {
        let Seen { identity, source, address, uid, port, connections, ago } = seen;
        Self {
            source_identity: identity.map(|identity| identity.to_string()).unwrap_or_default(),
            source_uid: source.map(|uid| uid.as_str().to_owned()).unwrap_or_default(),
            source_address: match address {
                IpAddr::V4(address) => address.octets().to_vec().into(),
                IpAddr::V6(address) => address.octets().to_vec().into(),
            },
            uid: uid.as_str().to_owned(),
            port: port.into(),
            connections,
            seconds_ago: u32::try_from(ago.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<proto::Observation> for Seen {
    type Error = NotSeen;

    fn try_from(seen: proto::Observation) -> Result<Self, NotSeen> {
        let wrong = |field, value: String| NotSeen { field, value };
        let identity = (!seen.source_identity.is_empty()).then(|| seen.source_identity.parse::<Identity>());
        let octets = seen.source_address.as_ref();
        let address = <[u8; 4]>::try_from(octets)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| IpAddr::from(octets).to_canonical()));
        if seen.uid.is_empty() {
            return Err(wrong("uid", "empty".into()));
        }
        Ok(Self {
            identity: identity.transpose().map_err(|error| wrong("source_identity", error.to_string()))?,
            source: (!seen.source_uid.is_empty()).then(|| Uid::new(&seen.source_uid)),
            address: address.map_err(|_| wrong("source_address", format!("{} bytes long", octets.len())))?,
            uid: Uid::new(&seen.uid),
            port: u16::try_from(seen.port).map_err(|_| wrong("port", seen.port.to_string()))?,
            connections: seen.connections,
            ago: Duration::from_secs(seen.seconds_ago.into()),
        })
    }
}

#[cfg(test)]
mod tests;
