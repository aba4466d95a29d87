//! What of a Service Weft leaves as it is, in the words of `meshctl services` and of the wire.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A part of a Service that goes on as if there were no mesh: kube-proxy's, or a load balancer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Untouched {
    /// A UDP port.
    Udp(u16),
    /// An SCTP port.
    Sctp(u16),
    /// A TCP port that nodes have for it.
    NodePort(u16),
    /// An address that is a load balancer's own (`ipMode: Proxy`): what goes there leaves the cluster first.
    Proxied(IpAddr),
    /// An address of a family in which the Service has no cluster address.
    Unserved(IpAddr),
}

/// A word that is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no part of a Service that is left as it is")]
pub struct NotUntouched(pub String);

impl fmt::Display for Untouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(port) => write!(f, "udp/{port}"),
            Self::Sctp(port) => write!(f, "sctp/{port}"),
            Self::NodePort(port) => write!(f, "node-port/{port}"),
            Self::Proxied(address) => write!(f, "proxied/{address}"),
            Self::Unserved(address) => write!(f, "unserved/{address}"),
        }
    }
}

impl FromStr for Untouched {
    type Err = NotUntouched;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || NotUntouched(text.to_owned());
        let (kind, what) = text.split_once('/').ok_or_else(unknown)?;
        let port = || what.parse::<u16>().map_err(|_| unknown());
        let address = || what.parse::<IpAddr>().map_err(|_| unknown());
        match kind {
            "udp" => port().map(Self::Udp),
            "sctp" => port().map(Self::Sctp),
            "node-port" => port().map(Self::NodePort),
            "proxied" => address().map(Self::Proxied),
            "unserved" => address().map(Self::Unserved),
            _ => Err(unknown()),
        }
    }
}

impl From<Untouched> for String {
    fn from(untouched: Untouched) -> Self {
        untouched.to_string()
    }
}

impl TryFrom<String> for Untouched {
    type Error = NotUntouched;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
