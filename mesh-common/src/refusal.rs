//! Why the kernel refused a connection: the number that the programs count by.

/// A refusal's number: the index of its counters in the map `mesh_refused`. Numbers are part of the ABI: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Refusal {
    /// A process below kubelet's cgroup whose pod nobody has classified.
    UnknownPod = 0,
    /// The pod is pending: labelled, and the agent is not ready for it.
    NotReady = 1,
    /// The agent has not been told the whole world.
    NoWorld = 2,
    /// A captured pod's cgroup, but a socket of another network namespace.
    ForeignNetns = 3,
    /// The pod has no address of the family that it dialled.
    NoFamily = 4,
    /// A Service without a ready endpoint.
    NoEndpoint = 5,
    /// A Service address at a port it does not have.
    NoServicePort = 6,
    /// A note could not be filed because its map is full.
    MapFull = 7,
    /// A connection to one of the agent's own ports from where none may come.
    AgentPort = 8,
    /// An address that only deliveries of the agent's come from (loopback, 100::/64), and it is none.
    LoopbackSource = 9,
    /// The agent's listener is gone (the agent is down).
    NoListener = 10,
    /// A connection at a capture port without a note.
    NoOriginalDst = 11,
    /// A Service for clients of its endpoints' own nodes, and none is on this one.
    NoLocalEndpoint = 12,
    /// A policy refuses the connection, as far as this node knows.
    Policy = 13,
    /// The pod takes no connection without identity.
    Plaintext = 14,
    /// A packet from an address that is not its device's.
    Spoofed = 15,
    /// A plaintext connection of a captured pod's to a peer in the mesh, around the hooks.
    Bypass = 16,
}

impl Refusal {
    /// How many there are: the size of the counter map.
    pub const COUNT: u32 = 17;

    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; Self::COUNT as usize] = [
        Refusal::UnknownPod,
        Refusal::NotReady,
        Refusal::NoWorld,
        Refusal::ForeignNetns,
        Refusal::NoFamily,
        Refusal::NoEndpoint,
        Refusal::NoServicePort,
        Refusal::MapFull,
        Refusal::AgentPort,
        Refusal::LoopbackSource,
        Refusal::NoListener,
        Refusal::NoOriginalDst,
        Refusal::NoLocalEndpoint,
        Refusal::Policy,
        Refusal::Plaintext,
        Refusal::Spoofed,
        Refusal::Bypass,
    ];
}
