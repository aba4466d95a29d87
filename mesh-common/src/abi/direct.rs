//! Connections that no agent carries: between two pods of a node, and to what is outside the mesh.

use super::Addr;

abi! {
    /// Both ends of a direct connection, as it goes over the wire (`mesh_direct`).
    pub struct DirectKey {
        /// The client.
        pub src: Addr,
        /// The pod that it reaches.
        pub dst: Addr,
        /// The client's port.
        pub src_port: u32,
        /// The pod's own port.
        pub dst_port: u32,
    }
}

abi! {
    /// A direct connection, from the client's connect to its close.
    pub struct DirectEntry {
        /// The client's namespace: whose identity it has, and who alone may take the entry away.
        pub netns_cookie: u64,
        /// When it began, in nanoseconds since the machine booted.
        pub began: u64,
        /// What the client dialled.
        pub dialled: Addr,
        /// Its port.
        pub dialled_port: u32,
        /// 1 once the pod's own hook has let it in.
        pub admitted: u32,
    }
}

abi! {
    /// Whose connections are counted together (`mesh_flows`).
    pub struct FlowKey {
        /// The client's namespace.
        pub netns_cookie: u64,
        /// Who is reached; for what is outside the mesh all zero.
        pub peer: Addr,
        /// What was dialled.
        pub dialled: Addr,
        /// Its port.
        pub dialled_port: u32,
        /// [`FlowKey::DIRECT`] or [`FlowKey::LEFT`].
        pub kind: u32,
    }
}

impl FlowKey {
    /// Between two pods of the node.
    pub const DIRECT: u32 = 1;
    /// To what is outside the mesh.
    pub const LEFT: u32 = 2;
    /// Of those that the map had no room for: one row, which is always there.
    pub const OVERFLOW: u32 = 3;
    /// That row's key.
    pub const OF_OVERFLOW: Self = Self {
        netns_cookie: 0,
        peer: Addr::NONE,
        dialled: Addr::NONE,
        dialled_port: 0,
        kind: Self::OVERFLOW,
    };
}

abi! {
    /// What was counted.
    pub struct FlowCount {
        /// Connections that were established.
        pub opened: u64,
        /// Of them, those that ended.
        pub closed: u64,
        /// Connects that came to nothing.
        pub failed: u64,
        /// Bytes from the client, of connections that ended.
        pub sent: u64,
        /// Bytes to it.
        pub received: u64,
        /// Segments that the client's end sent again, of connections that ended.
        pub retransmits: u64,
        /// From connect to established, of those that were opened.
        pub connects: Durations,
        /// Smoothed round-trip times, as they were when a connection ended.
        pub round_trips: Durations,
    }
}

abi! {
    /// How many took how long.
    pub struct Durations {
        /// All of them together, in microseconds.
        pub sum: u64,
        /// How many took at most as long as the bound of the same index in [`Durations::BOUNDS`] and longer than the one
        /// before; the last ones took longer than any.
        pub counts: [u64; 11],
    }
}

impl Durations {
    /// None.
    pub const NONE: Self = Self { sum: 0, counts: [0; 11] };
    /// Upper bounds, in microseconds.
    pub const BOUNDS: [u32; 10] = [50, 100, 250, 1000, 2500, 10_000, 25_000, 100_000, 250_000, 1_000_000];
}

impl FlowCount {
    /// Nothing.
    pub const NONE: Self = Self {
        opened: 0,
        closed: 0,
        failed: 0,
        sent: 0,
        received: 0,
        retransmits: 0,
        connects: Durations::NONE,
        round_trips: Durations::NONE,
    };
}

abi! {
    /// A pod's device on the host's side (`mesh_devices`), by its index there.
    pub struct GuardedDevice {
        /// The pod's namespace.
        pub netns_cookie: u64,
        /// A [`GuardedDevice`] constant.
        pub guard: u32,
        /// Zero.
        pub reserved: u32,
        /// The pod's own addresses, or none.
        pub addr4: Addr,
        /// Likewise.
        pub addr6: Addr,
    }
}

impl GuardedDevice {
    /// Of a pod outside the mesh: no captured pod's address may come from it.
    pub const OTHERS: u32 = 0;
    /// Of a captured pod: only its own addresses may.
    pub const OWN: u32 = 1;
    /// The same, and no connection into the mesh that the hooks have not seen.
    pub const STRICT: u32 = 2;
    /// No device of a pod's, and nothing is attached to it: a bridge whose ports are.
    pub const BRIDGE: u32 = 3;
}

abi! {
    /// Something that was refused, for the log (`mesh_events`, ring).
    pub struct RefusalEvent {
        /// The namespace of the socket that dialled; 0 where only the addresses are known.
        pub netns_cookie: u64,
        /// A [`crate::Refusal`], or [`RefusalEvent::AUDIT`].
        pub reason: u32,
        /// The destination's port.
        pub port: u32,
        /// The destination: of a Service the endpoint that was chosen, if it came to that.
        pub addr: Addr,
        /// The source, where it is known.
        pub from: Addr,
        /// Its port.
        pub from_port: u32,
        /// The port that was dialled.
        pub dialled_port: u32,
        /// What was dialled; none where only the destination is known.
        pub dialled: Addr,
    }
}

abi! {
    /// The end of a connection that no agent carries (`mesh_ended`, ring).
    pub struct EndedEvent {
        /// The client's namespace.
        pub netns_cookie: u64,
        /// Bytes from the client.
        pub sent: u64,
        /// Bytes to it.
        pub received: u64,
        /// Microseconds from its connect.
        pub lasted: u64,
        /// The client.
        pub src: Addr,
        /// Whom it reached.
        pub dst: Addr,
        /// What it dialled.
        pub dialled: Addr,
        /// The client's port.
        pub src_port: u32,
        /// The port that it reached.
        pub dst_port: u32,
        /// The port that it dialled.
        pub dialled_port: u32,
        /// [`FlowKey::DIRECT`] or [`FlowKey::LEFT`].
        pub kind: u32,
        /// An [`EndedEvent`] constant.
        pub how: u32,
        /// Smoothed round-trip time in microseconds; zero: none was measured.
        pub round_trip: u32,
        /// Segments sent again.
        pub retransmits: u32,
        /// 1: a policy in mode Audit would have refused it.
        pub audited: u32,
    }
}

impl EndedEvent {
    /// Both ends sent FIN.
    pub const CLEAN: u32 = 0;
    /// It was reset, or given up.
    pub const BROKEN: u32 = 1;
    /// It never began.
    pub const FAILED: u32 = 2;
}

impl RefusalEvent {
    /// Nothing was refused: an Audit policy would have.
    pub const AUDIT: u32 = 1000;
}
