//! What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).

use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// Of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Smoothed round-trip time, in microseconds; zero where there is none yet.
    pub(super) round_trip: u32,
    /// Segments sent again, since it was made.
    pub(super) retransmits: u32,
}

impl Measured {
    /// Nothing where the kernel does not say.
    pub(super) fn of(tcp: &TcpStream) -> Self {
        if crate::metrics::is_off() {
            return Self::default();
        }
        // SAFETY: integers alone: all zero is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes `length` bytes at most.
        let failed = unsafe {
            libc::getsockopt(
                tcp.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if failed != 0 {
            return Self::default();
        }
        Self { round_trip: info.tcpi_rtt, retransmits: info.tcpi_total_retrans }
    }
}
