//! What several files of the hostile suite share. The suite itself is in `tests/`, one file per promise: a peer of the mesh
//! that misbehaves gets a clean error, costs a bounded amount, is counted and named in the log, and disturbs nobody.
//!
//! ```text
//!  node a                                   node b
//!  shop/client   (captured) ── hammer ────▶ shop/server (captured, echo)     nobody of these may notice
//!  yard/mallory             ── anything ──▶ shop/server port 15008           the hostile client: a thread of the test
//!  shop/client              ──────────────▶ yard/foreign-N port 15008        the hostile server: a thread of the test
//! ```
//!
//! The peer is written from the standards: rustls for TLS with any certificate, and HTTP/2 frames byte by byte. It shares
//! no code with the mesh.

pub mod certs;
pub mod http2;
pub mod session;
pub mod stage;
pub mod watch;
