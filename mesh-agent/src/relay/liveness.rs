//! Whether the host at the far end of a plain connection is still there.
//!
//! ```text
//! idle             ─▶ the kernel asks: keepalive after 10 s, three answers missing at 25 s ─▶ ETIMEDOUT
//! bytes in flight  ─▶ looked at every 4 s: something unanswered, and nothing heard for 20 s ─▶ silent
//! ```
//!
//! The application's own keepalive is answered by this node's kernel and finds nothing, so the agent has to ask. Not by
//! `TCP_USER_TIMEOUT`: since Linux 5.11 it also ends a connection whose peer lives and keeps its window closed, and an
//! application may stop reading for as long as it likes. What counts here is whether the *host* answers.
//!
//! Costs nothing per byte, and nothing at all while idle: the timer runs only from a write to the first look that finds
//! everything answered. Not here: tunnels, which have PINGs of their own (`mesh-hbone`).

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Sleep;

#[cfg(test)]
mod tests;

/// An idle connection is asked about after this …
const ASK_AFTER: Duration = Duration::from_secs(10);
/// … again after this …
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// … and given up after so many questions, 25 s after the last word.
const QUESTIONS: u32 = 3;

/// How often a connection with something in flight is looked at.
const LOOK: Duration = Duration::from_secs(4);
/// Nothing heard for so long, with something in flight: the host is gone. With the look before it below 30 s.
const SILENCE: Duration = Duration::from_secs(20);

/// At most so long between two questions to a closed window (`TCP_RTO_MAX_MS`, Linux 6.15; two minutes before that).
static LONGEST_PAUSE_MS: libc::c_int = 5_000;
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Watches over one socket.
#[derive(Default)]
pub(super) struct Watch {
    /// Runs while something may be unanswered.
    timer: Option<Pin<Box<Sleep>>>,
    /// What had been written when everything was answered.
    settled: u64,
}

/// Has the kernel ask on an idle connection. Failing, an idle connection is as blind as without the mesh, that is all.
pub(super) fn keep_asking(tcp: &TcpStream) {
    let asks = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_AGAIN).with_retries(QUESTIONS);
    let _ = SockRef::from(tcp).set_tcp_keepalive(&asks);
    // SAFETY: the pointer is to a static of the size that is passed. A kernel without the option says so.
    let _unknown_before_6_15 = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const LONGEST_PAUSE_MS).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// Whether an error of a socket says that nobody answers any more.
pub(super) fn is_silence(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error, TimedOut | HostUnreachable | NetworkUnreachable)
}

impl Watch {
    /// Ready once the host is silent. `written` counts what was given to the socket, FIN included.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tcp: &TcpStream, written: u64) -> Poll<()> {
        loop {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None if written == self.settled => return Poll::Pending,
                none => none.insert(Box::pin(tokio::time::sleep(LOOK))),
            };
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
            match Info::of(tcp).map_or(Finding::Settled, |info| info.finding()) {
                Finding::Settled => self.settled = written,
                Finding::Waiting => {}
                Finding::Silent => return Poll::Ready(()),
            }
        }
    }
}

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// All that was written was answered.
    Settled,
    /// Something is in flight, or waits for the peer's window.
    Waiting,
    /// And nobody answers.
    Silent,
}

/// The beginning of `struct tcp_info` (linux/tcp.h), to the last field that is read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    /// Questions to a closed window that have had no answer.
    probes: u8,
    backoff_options_and_scales: [u8; 4],
    rto_to_rcv_mss: [u32; 4],
    /// Segments in flight, FIN included.
    unacked: u32,
    sacked_to_last_ack_sent: [u32; 6],
    /// Milliseconds since the last data.
    last_data_recv: u32,
    /// Milliseconds since the last acknowledgement that was looked at.
    last_ack_recv: u32,
    pmtu_to_total_retrans: [u32; 11],
    pacing_to_bytes_received: [u64; 4],
    segs: [u32; 2],
    /// Bytes that wait for the window.
    notsent_bytes: u32,
    min_rtt: u32,
}

impl Info {
    fn of(tcp: &TcpStream) -> io::Result<Self> {
        let mut info = Self::default();
        let mut size = size_of::<Self>() as libc::socklen_t;
        // SAFETY: both pointers are to live locals, `size` says how large the first one is, and any bytes are a value.
        let result = unsafe {
            libc::getsockopt(
                tcp.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut size,
            )
        };
        if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
    }

    fn finding(&self) -> Finding {
        if self.unacked == 0 && self.probes == 0 && self.notsent_bytes == 0 {
            return Finding::Settled;
        }
        let heard = Duration::from_millis(self.last_ack_recv.min(self.last_data_recv).into());
        // A first question to a closed window may just have gone out after a long pause; the second one has not.
        let unanswered = self.unacked > 0 || self.probes > 1;
        if unanswered && heard >= SILENCE { Finding::Silent } else { Finding::Waiting }
    }
}
