//! The route that makes 100::/64 local in a pod's network namespace, so that IPv6 deliveries can come from there.
//!
//! ```text
//! local 100::/64 dev lo        (in the pod's table of local addresses; `ip -6 route show table local`)
//! ```
//!
//! From the pod's own address deliveries run out of ports (TIME_WAIT), from ::1 no RST comes back (docs/adr/0008). The
//! route is there from the first capture of a pod until it was let go and its last connection has ended. An agent that
//! was killed leaves it behind: its successor takes it over, and without one it leads nowhere. Nothing is dialled there.
//!
//! By hand and not through a netlink crate: it is two requests (rtnetlink(7)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use mesh_common::Addr;

use super::Netns;

/// Index of `lo` in every namespace.
pub(super) const LOOPBACK: u32 = 1;
/// `nlmsghdr` and `rtmsg`.
const HEADERS: usize = 16 + 12;

/// Keeps the route. The last one of a namespace's takes it away.
#[derive(Debug)]
pub struct DeliveryRoute {
    netns: Arc<Netns>,
}

impl DeliveryRoute {
    /// Makes the route, or shares what is there already.
    pub fn keep(netns: &Arc<Netns>) -> io::Result<Arc<Self>> {
        let mut slot = netns.route.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = slot.upgrade() {
            return Ok(kept);
        }
        match netns.within(|| request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL)) {
            // Left by a predecessor, or about to be given up by a pod object of this namespace's past.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            other => other?,
        }
        let kept = Arc::new(Self { netns: netns.clone() });
        *slot = Arc::downgrade(&kept);
        Ok(kept)
    }
}

impl Drop for DeliveryRoute {
    fn drop(&mut self) {
        let slot = self.netns.route.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody has asked for it again between the last reference's end and here.
        if slot.strong_count() > 0 {
            return;
        }
        if let Err(error) = self.netns.within(|| request(libc::RTM_DELROUTE, 0)) {
            tracing::debug!(cookie = self.netns.cookie(), %error, "a pod's route for deliveries stays");
        }
    }
}

/// Sends one request about the route and waits for its answer.
fn request(kind: u16, flags: i32) -> io::Result<()> {
    exchange(&message(kind, (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16))
}

/// Sends a request to the kernel's rtnetlink and waits for the acknowledgement that it asks for. On a thread in the
/// namespace.
pub(super) fn exchange(message: &[u8]) -> io::Result<()> {
    // SAFETY: socket(2) takes no pointers; the result is checked before it becomes an OwnedFd, which alone owns it.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let none = nix::sys::socket::MsgFlags::empty();
    nix::sys::socket::send(socket.as_raw_fd(), message, none)?;
    // The kernel answers within the call above: nothing is waited for.
    let mut answer = [0_u8; 1024];
    let count = nix::sys::socket::recv(socket.as_raw_fd(), &mut answer, none)?;
    match acknowledgement(&answer[..count]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("an answer that is no acknowledgement")),
    }
}

fn message(kind: u16, flags: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADERS + 20 + 8);
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: there is one request a socket.
    bytes.extend([0; 8]);
    // `struct rtmsg`: family, bits of the destination, of the source, type of service, table, protocol, scope, type.
    bytes.extend([libc::AF_INET6 as u8, Addr::DELIVERY_PREFIX_BITS, 0, 0, libc::RT_TABLE_LOCAL]);
    bytes.extend([libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_LOCAL]);
    bytes.extend([0; 4]);
    attribute(&mut bytes, libc::RTA_DST, &Addr::DELIVERY_PREFIX.octets());
    attribute(&mut bytes, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// Payloads here are multiples of four bytes, so nothing is padded.
pub(super) fn attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    bytes.extend((payload.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
}

/// The code of an acknowledgement: zero, or a negative errno.
fn acknowledgement(datagram: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(datagram.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(code)
}
