//! Who may talk to whom, as the hooks look it up.
//!
//! ```text
//! source: cookie ─▶ class ─┐
//!                          ├─▶ pair ─▶ verdict, or a set of ports ─▶ verdict
//! destination: address ─▶ class ─┘
//! ```
//!
//! A class is a number for all sources (all destinations) that no policy tells apart. Numbers are never used twice, so a row
//! that is not there is never another one's: it means that the agent decides.

use super::Addr;

abi! {
    /// A destination in the mesh (`mesh_dests`), by its address.
    pub struct DestinationEntry {
        /// [`DestinationEntry::TUNNEL`] or [`DestinationEntry::ASK`].
        pub kind: u32,
        /// Which policies are about it: [`PairKey::destination`]; 0: none.
        pub class: u32,
    }
}

impl DestinationEntry {
    /// A workload that is captured: through a tunnel, or directly where it is of this node.
    pub const TUNNEL: u32 = 1;
    /// Only the agent can say.
    pub const ASK: u32 = 2;
}

abi! {
    /// Two classes (`mesh_pairs`).
    pub struct PairKey {
        /// Who dials; 0: somebody without identity, whatever the address.
        pub source: u32,
        /// Who is dialled.
        pub destination: u32,
    }
}

abi! {
    /// What holds between two classes.
    pub struct PairVerdict {
        /// A [`Verdict`] constant, or [`PairVerdict::BY_PORT`].
        pub verdict: u32,
        /// Of `mesh_ports`, where the port decides.
        pub ports: u32,
    }
}

impl PairVerdict {
    /// The port decides.
    pub const BY_PORT: u32 = 100;
}

abi! {
    /// A range of ports of a set, as prefixes have it (`mesh_ports`: LPM trie).
    pub struct PortKey {
        /// [`PairVerdict::ports`], in network byte order.
        pub set: u32,
        /// The port in its upper half, in network byte order.
        pub port: u32,
    }
}

impl PortKey {
    /// Bits of a whole key: the set and the port.
    pub const BITS: u32 = 48;

    /// One port of a set.
    #[inline(always)]
    pub const fn new(set: u32, port: u32) -> Self {
        Self { set: set.to_be(), port: (port << 16).to_be() }
    }
}

abi! {
    /// What holds at a port.
    pub struct PortVerdict {
        /// A [`Verdict`] constant.
        pub verdict: u32,
    }
}

/// What the tables say of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict;

impl Verdict {
    /// Nothing: the agent decides.
    pub const ASK: u32 = 0;
    /// It is admitted.
    pub const ALLOW: u32 = 1;
    /// It is refused.
    pub const DENY: u32 = 2;
    /// It is admitted, and would not be if Audit policies were enforced.
    pub const ALLOW_AUDITED: u32 = 3;
}

abi! {
    /// An endpoint of a set (`mesh_endpoints`).
    pub struct EndpointKey {
        /// Which set.
        pub set: u32,
        /// From 0.
        pub index: u32,
    }
}

abi! {
    /// That an endpoint is of a set (`mesh_members`): only of sets whose Service has affinity.
    pub struct MemberKey {
        /// The endpoint.
        pub addr: Addr,
        /// Its port.
        pub port: u32,
        /// Of which set.
        pub set: u32,
    }
}

abi! {
    /// Whose connections go to one endpoint (`mesh_affinity`, LRU).
    pub struct AffinityKey {
        /// The Service's address.
        pub addr: Addr,
        /// The Service's port.
        pub port: u32,
        /// Zero.
        pub reserved: u32,
        /// The client's namespace.
        pub netns_cookie: u64,
    }
}

abi! {
    /// Where they go.
    pub struct AffinityEntry {
        /// The endpoint.
        pub addr: Addr,
        /// Its port.
        pub port: u32,
        /// Zero.
        pub reserved: u32,
        /// When the last one was, in nanoseconds since the machine booted.
        pub at: u64,
    }
}
