//! Keys and values of the maps.

/// The layout's number. An agent that finds pinned maps of another number says so and names `mesh-agent reset`.
pub type AbiVersion = u32;

/// Declares a type that crosses the kernel boundary: `repr(C)`, no padding (checked), all-zero is a valid value.
macro_rules! abi {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty,)+ }

        const _: () = assert!(
            core::mem::size_of::<$name>() == 0 $(+ core::mem::size_of::<$ty>())+,
            concat!(stringify!($name), " has padding"),
        );

        // SAFETY: repr(C), Copy, without padding (asserted above) and made of integers only, so any bytes are a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

mod direct;
mod tables;

pub use direct::{
    DirectEntry, DirectKey, Durations, EndedEvent, FlowCount, FlowKey, GuardedDevice, RefusalEvent,
};
pub use tables::{
    AffinityEntry, AffinityKey, DestinationEntry, EndpointKey, MemberKey, PairKey, PairVerdict, PortKey,
    PortVerdict, Verdict,
};

abi! {
    /// An address: IPv6, or IPv4 as `::ffff:a.b.c.d`. All zero: none.
    pub struct Addr {
        /// Four words as the kernel holds them: each in network byte order. (Words and not bytes, because the kernel's
        /// contexts are read by the word, and a compiler that has to take them apart makes code that the verifier
        /// refuses.)
        pub words: [u32; 4],
    }
}

impl Addr {
    /// No address.
    pub const NONE: Self = Self { words: [0; 4] };

    /// An IPv4 address from the word that the kernel holds: network byte order.
    #[inline(always)]
    pub const fn v4_word(word: u32) -> Self {
        Self { words: [0, 0, 0xffff_u32.to_be(), word] }
    }

    /// An IPv4 address from its four bytes.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::v4_word(u32::from_ne_bytes(octets))
    }

    /// An IPv6 address from its sixteen bytes.
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        let word = u32::from_ne_bytes;
        Self { words: [word([a, b, c, d]), word([e, f, g, h]), word([i, j, k, l]), word([m, n, o, p])] }
    }

    /// The sixteen bytes.
    pub const fn octets(&self) -> [u8; 16] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [
            self.words[0].to_ne_bytes(),
            self.words[1].to_ne_bytes(),
            self.words[2].to_ne_bytes(),
            self.words[3].to_ne_bytes(),
        ];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether it is `::ffff:a.b.c.d`.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] | self.words[1] == 0 && self.words[2] == 0xffff_u32.to_be()
    }

    /// Whether it is `::`.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.words[0] | self.words[1] | self.words[2] | self.words[3] == 0
    }

    /// 127.0.0.0/8 or ::1.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words;
        (self.is_v4() && u32::from_be(d) >> 24 == 127) || (a | b | c == 0 && d == 1_u32.to_be())
    }

    /// One of the addresses from which the agent delivers over IPv6: 100::/64, the discard-only block (RFC 6666), from which
    /// nothing real comes. In a captured pod it is local, by a route of the agent's.
    #[inline(always)]
    pub const fn is_delivery_source(&self) -> bool {
        let [a, b, _, _] = Self::DELIVERY_PREFIX.words;
        self.words[0] == a && self.words[1] == b
    }

    /// The prefix of [`Addr::is_delivery_source`].
    pub const DELIVERY_PREFIX: Self = Self { words: [0x0100_0000_u32.to_be(), 0, 0, 0] };
    /// Bits of [`Addr::DELIVERY_PREFIX`].
    pub const DELIVERY_PREFIX_BITS: u8 = 64;

    /// 0.0.0.0 or ::, which Linux connects to loopback.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.is_none() || (self.is_v4() && self.words[3] == 0)
    }

    /// 169.254.0.0/16 or fe80::/10: never leaves the link, never in the mesh.
    #[inline(always)]
    pub const fn is_link_local(&self) -> bool {
        (self.is_v4() && u32::from_be(self.words[3]) >> 16 == 0xa9fe)
            || u32::from_be(self.words[0]) & 0xffc0_0000 == 0xfe80_0000
    }
}

abi! {
    /// What the programs must know of the node (`mesh_settings`, element 0).
    pub struct Settings {
        /// [`Settings::ABI`] of who wrote it.
        pub abi: u32,
        /// 1 once the agent has been told the whole world; before that captured connects are refused.
        pub world_complete: u32,
        /// 1: pods that nobody has classified may connect.
        pub allow_unknown: u32,
        /// Which kinds of exclusions there are: a sum of [`Settings::EXCLUDED_NETS`] and [`Settings::EXCLUDED_PORTS`]. What
        /// there is none of is not looked up.
        pub exclusions: u32,
        /// Cookie of the host's network namespace: its processes are never an unknown pod.
        pub host_cookie: u64,
        /// A sum of [`Settings::DIRECT`], [`Settings::SETTLED`],
        /// [`Settings::ENDINGS`] and [`Settings::FAILURES`].
        pub flags: u32,
        /// The next number for a class or a set: each is used once.
        pub next_number: u32,
    }
}

impl Settings {
    /// The layout's number; counts up with every change in this module.
    pub const ABI: AbiVersion = 5;
    /// There are excluded addresses.
    pub const EXCLUDED_NETS: u32 = 1;
    /// There are excluded ports.
    pub const EXCLUDED_PORTS: u32 = 2;
    /// Connections between pods of this node may go directly: every local pod's device is guarded, and the operator has not
    /// said otherwise.
    pub const DIRECT: u32 = 1;
    /// Destinations and Services are all written: what has no row is outside the mesh.
    pub const SETTLED: u32 = 2;
    /// The end of each connection that no agent carries is told, for the access log.
    pub const ENDINGS: u32 = 4;
    /// Likewise of each that never began.
    pub const FAILURES: u32 = 8;
}

abi! {
    /// A pod, by the cookie of its network namespace.
    pub struct PodEntry {
        /// One of the `STATE_` constants.
        pub state: u32,
        /// Zero.
        pub reserved: u32,
        /// The pod's IPv4 address, or none.
        pub addr4: Addr,
        /// The pod's IPv6 address, or none.
        pub addr6: Addr,
    }
}

impl PodEntry {
    /// Goes through the mesh.
    pub const STATE_CAPTURED: u32 = 1;
    /// Labelled, not ready: refused.
    pub const STATE_PENDING: u32 = 2;
    /// Untouched.
    pub const STATE_EXCLUDED: u32 = 3;
}

abi! {
    /// A pod's cgroup, or kubelet's (`mesh_cgroups`, by cgroup id).
    pub struct CgroupEntry {
        /// Cookie of the pod's network namespace; 0 while it has none.
        pub netns_cookie: u64,
        /// A `PodEntry::STATE_` constant, or [`CgroupEntry::KUBEPODS`].
        pub state: u32,
        /// [`CgroupEntry::EARLIER`] or 0: for the agent; hooks do not read it.
        pub flags: u32,
    }
}

impl CgroupEntry {
    /// The cgroup below which kubelet makes every pod's: who is in it and not known is an unknown pod.
    pub const KUBEPODS: u32 = 100;
    /// It is excluded because it ran before the node's first agent, and nobody has classified it.
    pub const EARLIER: u32 = 1;
}

abi! {
    /// A captured pod's own address (`mesh_addrs`).
    pub struct AddrEntry {
        /// Whose.
        pub netns_cookie: u64,
        /// [`AddrEntry::CAPTURED`] or [`AddrEntry::LEAVING`].
        pub state: u32,
        /// Zero.
        pub reserved: u32,
    }
}

impl AddrEntry {
    /// Everything from outside is steered to the agent.
    pub const CAPTURED: u32 = 1;
    /// Un-labelled: only HBONE is, until the peers know.
    pub const LEAVING: u32 = 2;
}

abi! {
    /// A Service's address and port.
    pub struct ServiceKey16 {
        /// The Service's address.
        pub addr: Addr,
        /// The port; 0 stands for the address itself.
        pub port: u32,
    }
}

abi! {
    /// What the kernel knows of a Service's port.
    pub struct ServiceState {
        /// 0, or why connects are refused: [`ServiceState::NONE`] or [`ServiceState::NONE_HERE`].
        pub no_endpoint: u32,
        /// Which endpoints may be chosen: [`EndpointKey::set`]; 0: the agent chooses.
        pub set: u32,
        /// How many they are.
        pub count: u32,
        /// Connections of one pod go to one endpoint until so many seconds after the last; 0: no affinity.
        pub affinity_seconds: u32,
        /// The next one's turn. The hook counts it up; the agent carries it over when it replaces the row.
        pub turn: u32,
    }
}

impl ServiceState {
    /// Where the agent chooses.
    pub const ASK: Self = Self { no_endpoint: 0, set: 0, count: 0, affinity_seconds: 0, turn: 0 };
    /// Where nobody can be chosen.
    pub const fn refusing(no_endpoint: u32) -> Self {
        Self { no_endpoint, ..Self::ASK }
    }

    /// But for the turn.
    pub fn is_like(&self, other: &Self) -> bool {
        Self { turn: 0, ..*self } == Self { turn: 0, ..*other }
    }

    /// There is no endpoint that may be chosen.
    pub const NONE: u32 = 1;
    /// There is none on this node, and no other counts.
    pub const NONE_HERE: u32 = 2;
    /// Of the address's own row: the agent decides, whatever the port.
    pub const ASK_AT_ALL: u32 = 3;
}

abi! {
    /// One of the agent's listeners.
    pub struct ListenerKey {
        /// The pod's address.
        pub addr: Addr,
        /// One of the port constants of [`ListenerKey`].
        pub port: u32,
    }
}

impl ListenerKey {
    /// Outbound capture.
    pub const OUTBOUND: u32 = 15001;
    /// Inbound plaintext capture.
    pub const PLAINTEXT: u32 = 15006;
    /// HBONE.
    pub const HBONE: u32 = 15008;
    /// All three.
    pub const ALL: [u32; 3] = [Self::OUTBOUND, Self::PLAINTEXT, Self::HBONE];

    /// Whether a port of a captured pod's is the agent's: it listens there, or redirected connects arrive there.
    #[inline(always)]
    pub const fn is_agents(port: u32) -> bool {
        matches!(port, Self::OUTBOUND | Self::PLAINTEXT | Self::HBONE) || CapturePorts::holds(port)
    }
}

/// The ports to which captured connects are redirected, all of them steered to the one listener at
/// [`ListenerKey::OUTBOUND`]. Several, because a source address has 28,232 ports per destination address and port at the
/// kernel's defaults, half of which are found fast; these have room for all TIME_WAIT sockets that a kernel keeps (262,144
/// at most by its defaults).
#[derive(Clone, Copy, Debug)]
pub struct CapturePorts;

impl CapturePorts {
    /// The first. Aligned, so that one comparison tells.
    pub const FIRST: u32 = 15104;
    /// How many; a power of two.
    pub const COUNT: u32 = 32;
    /// The last.
    pub const LAST: u32 = Self::FIRST + Self::COUNT - 1;

    /// One of them, by a random number.
    #[inline(always)]
    pub const fn pick(random: u32) -> u32 {
        Self::FIRST | random & (Self::COUNT - 1)
    }

    /// Whether a port is one of them.
    #[inline(always)]
    pub const fn holds(port: u32) -> bool {
        port & !(Self::COUNT - 1) == Self::FIRST
    }
}

const _: () = assert!(
    CapturePorts::COUNT.is_power_of_two() && CapturePorts::FIRST.is_multiple_of(CapturePorts::COUNT),
    "the block is aligned"
);

abi! {
    /// A redirected connection: the client's end, and the port to which it was redirected. The other address is the pod's
    /// own, so this is the whole connection: one source port may be in use towards several of [`CapturePorts`].
    pub struct NoteKey {
        /// The client's network namespace.
        pub netns_cookie: u64,
        /// The client's source address.
        pub addr: Addr,
        /// The client's source port.
        pub port: u32,
        /// One of [`CapturePorts`].
        pub capture_port: u32,
    }
}

abi! {
    /// An address and port.
    pub struct Endpoint16 {
        /// The address.
        pub addr: Addr,
        /// The port.
        pub port: u32,
    }
}

abi! {
    /// Both ends of a delivery, as the application's side sees them.
    pub struct DeliveryKey {
        /// The agent's source: loopback for IPv4, [`Addr::is_delivery_source`] for IPv6 (the pod's own address where that
        /// has no route).
        pub src: Addr,
        /// The pod's own address.
        pub dst: Addr,
        /// The agent's source port.
        pub src_port: u32,
        /// The application's port.
        pub dst_port: u32,
    }
}

abi! {
    /// Both ends of a connection of kubelet's to a captured pod, as the pod sees them.
    pub struct ProbeKey {
        /// The node's address.
        pub src: Addr,
        /// The pod's own address.
        pub dst: Addr,
        /// Kubelet's source port.
        pub src_port: u32,
        /// The application's port.
        pub dst_port: u32,
    }
}

abi! {
    /// What a socket carries with it (`mesh_notes`, socket storage).
    pub struct SockNote {
        /// An address.
        pub addr: Addr,
        /// A port.
        pub port: u32,
        /// One of the constants: what the address is.
        pub kind: u32,
        /// Where the hook sends the connection: the endpoint that it chose, or what was dialled. None where the agent chooses.
        pub target: Addr,
        /// Its port.
        pub target_port: u32,
        /// When its connect went out, in microseconds of the machine's monotonic clock: the lower half, and the upper. Zero
        /// until then.
        pub began: [u32; 2],
        /// 1: a policy in mode Audit would have refused it.
        pub audited: u32,
    }
}

abi! {
    /// What a captured client dialled, and what became of it (`mesh_originals`).
    pub struct Original {
        /// What it dialled.
        pub addr: Addr,
        /// Its port.
        pub port: u32,
        /// The endpoint that the hook chose; none: the agent chooses.
        pub target: Addr,
        /// Its port.
        pub target_port: u32,
    }
}

impl SockNote {
    /// A note about an address, where nothing was chosen.
    #[inline(always)]
    pub const fn of(kind: u32, addr: Addr, port: u32) -> Self {
        Self { addr, port, kind, target: Addr::NONE, target_port: 0, began: [0; 2], audited: 0 }
    }
}

impl SockNote {
    /// On a captured client's socket: what it dialled.
    pub const DIALLED: u32 = 1;
    /// On the agent's accepted socket: what the client dialled.
    pub const ORIGINAL: u32 = 2;
    /// On the agent's own connecting socket: on whose behalf it delivers.
    pub const DELIVERS: u32 = 3;
    /// On an application's accepted socket: who dialled.
    pub const CLIENT: u32 = 4;
    /// On the agent's own connecting socket: the delivery could not be noted, the application would be told the agent's
    /// address.
    pub const LOST: u32 = 5;
    /// On a socket of kubelet's in the host's namespace: what it dialled.
    pub const KUBELET: u32 = 6;
    /// On a captured client's socket whose connection goes directly to a pod of the node: what it dialled.
    pub const DIRECT: u32 = 7;
    /// On a captured client's socket whose destination is outside the mesh and is left as it is: what it dialled.
    pub const LEFT: u32 = 8;
}

/// Events that the programs count (`mesh_counted`). Numbers are part of the ABI: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// Connects redirected to the agent.
    Redirected = 0,
    /// Connections from outside steered to the plaintext listener.
    SteeredPlaintext = 1,
    /// Connections from outside steered to the HBONE listener.
    SteeredHbone = 2,
    /// Deliveries handed to an application.
    Delivered = 3,
    /// Connections of kubelet's handed to an application.
    Probed = 4,
    /// Connects sent directly to a pod of this node.
    Direct = 5,
    /// Direct connections that arrived and were handed to an application.
    Admitted = 6,
    /// Connects to destinations outside the mesh, left as they were dialled.
    Left = 7,
    /// Policy was not settled by the tables, or a table had no room: left to the agent.
    Asked = 8,
    /// Events that the ring had no room for.
    EventsLost = 9,
    /// Ends of connections that their ring had no room for.
    EndingsLost = 10,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 11;
    /// All, in the order of their numbers, with the word used in metrics.
    pub const ALL: [(Counter, &'static str); Self::COUNT as usize] = [
        (Counter::Redirected, "redirected"),
        (Counter::SteeredPlaintext, "steered_plaintext"),
        (Counter::SteeredHbone, "steered_hbone"),
        (Counter::Delivered, "delivered"),
        (Counter::Probed, "probed"),
        (Counter::Direct, "direct"),
        (Counter::Admitted, "admitted"),
        (Counter::Left, "left"),
        (Counter::Asked, "asked"),
        (Counter::EventsLost, "events_lost"),
        (Counter::EndingsLost, "endings_lost"),
    ];
}
