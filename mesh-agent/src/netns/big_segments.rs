//! Segments of more than 64 KiB on the loopback device of a captured pod (BIG TCP for IPv4, Linux 6.3).
//!
//! Between an application and its agent every byte crosses the pod's `lo`. The kernel's work there is for each segment, not
//! for each byte, so larger ones make bulk cheaper (docs/adr/0012 has what was measured). Nothing leaves the pod that way: the
//! other devices are not touched, and IPv6, which needs an extension header for it, is left as it is.
//!
//! Set when a pod is taken in, and put back to the kernel's default when it was let go. An older kernel knows nothing of
//! it, and goes on as before. Not here: a flag for it, and a memory of what somebody else may have set.

use std::io;
use std::sync::{Arc, PoisonError};

use super::Netns;
use super::delivery_route::{LOOPBACK, attribute, exchange};

/// What a segment on `lo` may hold, in bytes. `lo` itself allows 524,280.
const LARGE: u32 = 192 << 10;
/// The kernel's default.
const DEFAULT: u32 = 64 << 10;

/// `IFLA_GSO_IPV4_MAX_SIZE` and `IFLA_GRO_IPV4_MAX_SIZE` (linux/if_link.h).
const ATTRIBUTES: [u16; 2] = [63, 64];

/// Keeps the size while the pod is captured.
#[derive(Debug)]
pub struct BigSegments {
    netns: Arc<Netns>,
}

impl BigSegments {
    /// Sets the size in a pod's namespace, if the kernel has it, or shares what keeps it there already: connections of a
    /// capture that is over may outlive the beginning of the next.
    pub fn keep(netns: &Arc<Netns>) -> Option<Arc<Self>> {
        let mut slot = netns.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = slot.upgrade() {
            return Some(kept);
        }
        if let Err(error) = netns.within(|| set(LARGE)) {
            tracing::debug!(cookie = netns.cookie(), %error, "no large segments on a pod's loopback");
            return None;
        }
        let kept = Arc::new(Self { netns: netns.clone() });
        *slot = Arc::downgrade(&kept);
        Some(kept)
    }
}

impl Drop for BigSegments {
    fn drop(&mut self) {
        let slot = self.netns.segments.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody has asked for it again between the last reference's end and here.
        if slot.strong_count() > 0 {
            return;
        }
        if let Err(error) = self.netns.within(|| set(DEFAULT)) {
            tracing::debug!(cookie = self.netns.cookie(), %error, "a pod's loopback keeps large segments");
        }
    }
}

fn set(size: u32) -> io::Result<()> {
    exchange(&message(size))
}

fn message(size: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([0; 4]);
    bytes.extend(libc::RTM_SETLINK.to_ne_bytes());
    bytes.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    // Sequence number and sender: there is one request a socket.
    bytes.extend([0; 8]);
    // `struct ifinfomsg`: family, padding and type; index; flags and which of them to change: none.
    bytes.extend([0; 4]);
    bytes.extend(LOOPBACK.to_ne_bytes());
    bytes.extend([0; 8]);
    for kind in ATTRIBUTES {
        attribute(&mut bytes, kind, &size.to_ne_bytes());
    }
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests;
