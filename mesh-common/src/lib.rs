//! The wire between the kernel and the agent, and nothing else: the layout of every map's keys and values, the names of
//! maps and programs, and their limits.
//!
//! One source for both halves: `mesh-ebpf` compiles it for `bpfel-unknown-none`, the agent for the host. `no_std`, no
//! dependency (but aya's marker trait with the feature `user`).
//!
//! Invariants: every type is `repr(C)` and as large as the sum of its fields (no padding: [`abi!`] checks at compile
//! time); fields have fixed width; an address is always 16 bytes, IPv4 as `::ffff:a.b.c.d`, so there is one key and one
//! path for both families; ports are host byte order unless a field says otherwise.

#![no_std]

mod abi;
mod names;
mod refusal;

pub use abi::{
    AbiVersion, Addr, AddrEntry, AffinityEntry, AffinityKey, CapturePorts, CgroupEntry, Counter, DeliveryKey,
    DestinationEntry, DirectEntry, DirectKey, Durations, EndedEvent, Endpoint16, EndpointKey, FlowCount,
    FlowKey, GuardedDevice, ListenerKey, MemberKey, NoteKey, Original, PairKey, PairVerdict, PodEntry,
    PortKey, PortVerdict, ProbeKey, RefusalEvent, ServiceKey16, ServiceState, Settings, SockNote, Verdict,
};
pub use names::{maps, paths, programs};
pub use refusal::Refusal;
