//! A second HBONE peer, written from the description of the wire (`docs/hbone.md`) on `rustls` and `h2` alone: nothing of
//! `mesh-hbone` or `mesh-identity` is in it, so what both agree on is the wire and not a shared mistake.
//!
//! ```text
//!   Client ── as the agent of a pod on node a ──▶ 15008 of a captured pod: Weft serves
//!   captured pod ─▶ Weft dials ──▶ 15008 of a pod that is annotated `weft.dev/tunnel: hbone`: Server
//! ```
//!
//! Both ends behave by default as Istio's ztunnel does (windows, no server name, 200 after the application was reached)
//! and do on command what other peers might. Their sockets are opened in a pod's namespace and cgroup; their code runs in
//! the test, so every row has both ends in its hands. Certificates are signed with the lab's own authority.
//!
//! Not here: peers that mean harm.

pub mod app;
pub mod cast;
pub mod client;
pub mod counters;
pub mod padded;
pub mod pki;
pub mod recorded;
pub mod server;
pub mod stream;

pub use cast::Cast;
pub use client::Client;
pub use pki::{Authority, Key};
pub use server::{Arrival, Manner, Server};
pub use stream::Stream;

/// The port of HBONE.
pub const HBONE: u16 = 15008;

/// What the peer's ends run on, beside the test's own thread.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
