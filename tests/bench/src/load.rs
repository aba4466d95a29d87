//! `weft-load`: the small programs that request/response, connect and idle connections are measured with.
//!
//! ```text
//!   request  64 bytes ─▶ echo port    64 bytes ◀─   on each of N connections, one outstanding
//!   connect  connect, 1 byte ─▶ close port, which answers 1 byte and closes first; T threads
//!   idle     N connections that were used once, then nothing
//! ```
//!
//! The server of `connect` closes first: so TIME_WAIT is on the side whose port is fixed, and no run of any length uses up
//! the client's ports. Everything is plain system calls on one thread per side (T for `connect`): the programs cost the
//! same in both runs of a round, and little.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod client;
pub mod histogram;
mod server;

pub use client::{connect, idle, request};
pub use server::serve;

/// Bytes of a request, and of its answer.
pub const MESSAGE: usize = 64;

/// What a client found, printed as one line of JSON.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LoadReport {
    /// Answers that came within the window.
    pub count: u64,
    /// Length of the window: from the first request to the last answer.
    pub seconds: f64,
    /// Bytes that the client sent and received, the ones before the window too.
    pub bytes: u64,
    /// Median time of one request or connection, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of the same.
    pub p99_us: f64,
    /// The longest of all.
    pub max_us: f64,
}

impl LoadReport {
    fn new(histogram: &histogram::Histogram, elapsed: Duration, bytes: u64) -> Self {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        Self {
            count: histogram.count(),
            seconds: elapsed.as_secs_f64(),
            bytes,
            p50_us: us(histogram.percentile(0.50)),
            p99_us: us(histogram.percentile(0.99)),
            max_us: us(histogram.max()),
        }
    }
}

/// As many open files as this process may have.
pub fn raise_open_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
