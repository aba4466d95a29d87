//! Through which of its devices the host would send to an address: a direct connection must stay on the node.
//!
//! Asked of the kernel (RTM_GETROUTE, rtnetlink(7)) as for a packet of the host's own. Where a network plugin forwards by other means
//! than routes (Cilium without routes per endpoint), the answer is some other device, and the pod counts as one that cannot be
//! vouched for. Not here: routes that hold for one incoming device alone.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};

use super::devices::{ask, attributes, failure, messages, open, word};
use super::{Netns, delivery_route};

/// `struct rtmsg`.
const ROUTE: usize = 12;

/// The index of the device through which the host sends to an address.
pub fn way_to(host: &Netns, address: IpAddr) -> io::Result<u32> {
    host.within(|| {
        let socket = open()?;
        ask(&socket, libc::RTM_GETROUTE, libc::NLM_F_REQUEST as u16, &question(address))?;
        let mut room = [0; 4096];
        let count = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty())?;
        match messages(room.get(..count).unwrap_or_default()).next() {
            Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => Err(failure(body)),
            Some((_, body)) => answer(body).ok_or_else(|| io::Error::other("a route without a device")),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    })
}

fn question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    // Family, bits of the destination; the rest is not asked for.
    let mut body = vec![0; ROUTE];
    body[0] = family as u8;
    body[1] = (octets.len() * 8) as u8;
    delivery_route::attribute(&mut body, libc::RTA_DST, &octets);
    body
}

fn answer(body: &[u8]) -> Option<u32> {
    let (_, index) = attributes(body.get(ROUTE..)?).find(|(kind, _)| *kind == libc::RTA_OIF)?;
    word(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_through_lo() {
        let own = Netns::open(std::path::Path::new("/proc/self/ns/net")).expect("this thread's namespace");
        for address in ["127.0.0.1", "127.8.8.8"] {
            assert_eq!(way_to(&own, address.parse().expect("an address")).expect("a route"), 1);
        }
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(answer(&[]), None);
        let mut body = vec![0; ROUTE];
        assert_eq!(answer(&body), None);
        delivery_route::attribute(&mut body, libc::RTA_OIF, &7_u32.to_ne_bytes());
        assert_eq!(answer(&body), Some(7));
        body.truncate(ROUTE + 5);
        assert_eq!(answer(&body), None);
    }
}
