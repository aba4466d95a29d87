//! Nodes and pods made of network namespaces, veth pairs, bridges and cgroups, so that a test of the mesh reads like
//! five lines of English:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = lab::Lab::builder().node("a").node("b").start()?;
//! lab.namespace("shop").captured()?;
//! let web = lab.pod("shop/web").node("b").label("app", "web").start()?;
//! let client = lab.pod("shop/client").node("a").start()?;
//! lab.await_captured(&client)?;
//! # let _ = web;
//! # Ok(()) }
//! ```
//!
//! ```text
//!   /run/netns/wl<id>-a                                    /run/netns/wl<id>-b
//!   ┌ node a ───────────────────────┐                      ┌ node b ───────────────────────┐
//!   │ cni0 10.244.0.1  kube-proxy   │ wire ══════════ wire │ cni0 10.245.0.1  kube-proxy   │
//!   │  │      │                     │ 172.30.0.1  ..0.2    │  │      │                     │
//!   └──┼──────┼─────────────────────┘                      └──┼──────┼─────────────────────┘
//!    eth0   eth0                                            eth0   eth0
//!    pod    weft-agent-a (and weft-controller-0)            pod    weft-agent-b
//! ```
//!
//! What is real: the kernel's namespaces and cgroups, kubelet's directory names (both cgroup drivers), the mesh's own
//! binaries, the programs in the pods. What stands in: kubelet, the container runtime, the CNI plugin and kube-proxy are
//! this library, and the API server is a directory of YAML.
//!
//! Invariants: nothing is made in the machine's own network namespace (but the door to a demo's Prometheus, on its
//! loopback); everything of a lab carries its id, so labs run
//! in parallel; whatever way the owning process ends, [`teardown`] runs (drop, signal thread, or guard process).
//! Not here: any knowledge of how Weft captures. The lab tells Weft nothing that kubelet would not.

pub mod admin;
mod binaries;
mod builder;
pub mod cgroup;
pub mod demo;
mod eventually;
mod kubeproxy;
mod lab;
mod mesh;
mod netlink;
mod netns;
mod node;
mod objects;
pub mod pattern;
pub mod pcap;
mod place;
mod pod;
pub mod preflight;
pub mod process;
pub mod programs;
pub mod prometheus;
mod random;
pub mod row;
mod service;
mod signals;
mod sockets;
mod store;
pub mod teardown;
mod wire;

pub use binaries::binary;
pub use builder::LabBuilder;
pub use eventually::eventually;
pub use lab::{Lab, NamespaceHandle};
pub use mesh::{Agent, Controller, Program, SYSTEM_NAMESPACE, TRUST_DOMAIN};
pub use node::{CgroupDriver, Node};
pub use place::Place;
pub use pod::{Pod, PodBuilder, Qos, ScheduledPod};
pub use preflight::ready;
pub use process::{Command, Output, Process};
pub use service::{Service, ServiceBuilder};
pub use store::Objects;
pub use wire::Capture;
