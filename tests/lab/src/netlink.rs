//! As much of rtnetlink as a lab needs: make links, give addresses, routes and neighbours.
//!
//! A socket belongs to the network namespace in which it was opened, so one that was opened inside a node goes on
//! configuring that node from any thread. By hand and not through `ip`: a pod costs five requests, where a process each
//! would cost as much as the rest of the pod. (rtnetlink(7), `linux/rtnetlink.h`, `linux/if_link.h`, `linux/veth.h`.)

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

const ALIGN: usize = 4;
const VETH_INFO_PEER: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const RTNH_F_ONLINK: u32 = 4;

/// Index of `lo` in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// A route socket of one namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One end of a veth pair to be made.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    pub(crate) index: u32,
    pub(crate) mac: Option<[u8; 6]>,
    /// Index of the bridge that the end becomes a port of.
    pub(crate) master: Option<u32>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: (IpAddr, u8),
    pub(crate) via: IpAddr,
    pub(crate) device: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        // SAFETY: socket(2) takes no pointers; the result is checked before it becomes an OwnedFd, which alone owns it.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("open a netlink socket");
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { socket, sequence: 0 })
    }

    /// Sets a link up.
    pub(crate) fn set_up(&mut self, index: u32) -> Result<()> {
        let message = Message::link(libc::RTM_NEWLINK, 0, index, true);
        self.request(message).with_context(|| format!("set link {index} up"))
    }

    /// Makes a bridge without multicast snooping (neighbour discovery is multicast, and there is no querier) and sets
    /// it up.
    pub(crate) fn add_bridge(&mut self, name: &str, index: u32, mac: [u8; 6]) -> Result<()> {
        let mut message = Message::link(libc::RTM_NEWLINK, create(), index, true);
        message.text(libc::IFLA_IFNAME, name);
        message.attribute(libc::IFLA_ADDRESS, &mac);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "bridge");
            info.nested(libc::IFLA_INFO_DATA, |data| data.attribute(IFLA_BR_MCAST_SNOOPING, &[0]));
        });
        self.request(message).with_context(|| format!("make bridge {name}"))
    }

    /// Makes a veth pair, `near` here and up, `far` in another namespace and still down (an end cannot be up before it has
    /// a peer).
    pub(crate) fn add_veth(&mut self, near: &End<'_>, far: &End<'_>, netns: BorrowedFd<'_>) -> Result<()> {
        let mut message = Message::link(libc::RTM_NEWLINK, create(), near.index, true);
        message.end(near);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.bytes.extend(link_header(far.index, false));
                    peer.end(far);
                    peer.attribute(libc::IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.request(message).with_context(|| format!("make veth pair {} - {}", near.name, far.name))
    }

    /// Removes a link, and with a veth its other end.
    pub(crate) fn remove_link(&mut self, index: u32) -> Result<()> {
        let message = Message::link(libc::RTM_DELLINK, 0, index, false);
        self.request(message).with_context(|| format!("remove link {index}"))
    }

    /// Gives a link an address, usable at once (IPv6 without duplicate address detection).
    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        let (family, octets) = parts(address);
        let flags = if address.is_ipv6() { libc::IFA_F_NODAD as u8 } else { 0 };
        let mut message = Message::new(libc::RTM_NEWADDR, create());
        message.bytes.extend([family, prefix, flags, libc::RT_SCOPE_UNIVERSE]);
        message.bytes.extend(index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &octets);
        message.attribute(libc::IFA_ADDRESS, &octets);
        self.request(message).with_context(|| format!("add address {address}/{prefix}"))
    }

    /// Adds a route; the gateway need not be in the subnet of an address of the device.
    pub(crate) fn add_route(&mut self, route: Route) -> Result<()> {
        let (family, octets) = parts(route.to.0);
        let mut message = Message::new(libc::RTM_NEWROUTE, create());
        message.bytes.extend([
            family,
            route.to.1,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        message.bytes.extend(RTNH_F_ONLINK.to_ne_bytes());
        if route.to.1 > 0 {
            message.attribute(libc::RTA_DST, &octets);
        }
        message.attribute(libc::RTA_GATEWAY, &parts(route.via).1);
        message.attribute(libc::RTA_OIF, &route.device.to_ne_bytes());
        self.request(message)
            .with_context(|| format!("add route {}/{} via {}", route.to.0, route.to.1, route.via))
    }

    /// Routes a prefix straight to a device.
    pub(crate) fn add_device_route(&mut self, to: IpAddr, prefix: u8, device: u32) -> Result<()> {
        let (family, octets) = parts(to);
        let mut message = Message::new(libc::RTM_NEWROUTE, create());
        message.bytes.extend([
            family,
            prefix,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_LINK,
            libc::RTN_UNICAST,
        ]);
        message.bytes.extend(0_u32.to_ne_bytes());
        message.attribute(libc::RTA_DST, &octets);
        message.attribute(libc::RTA_OIF, &device.to_ne_bytes());
        self.request(message).with_context(|| format!("add route {to}/{prefix} to device {device}"))
    }

    /// Names a neighbour for good. The neighbour tables are bounded over all namespaces together, and only such entries
    /// do not count. What was learned of the address, of a pod that had it before and is still looked for, is replaced.
    pub(crate) fn add_neighbour(&mut self, device: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let (family, octets) = parts(address);
        let replace = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        let mut message = Message::new(libc::RTM_NEWNEIGH, replace);
        message.bytes.extend([family, 0, 0, 0]);
        message.bytes.extend(device.to_ne_bytes());
        message.bytes.extend(libc::NUD_PERMANENT.to_ne_bytes());
        message.bytes.extend([0, 0]);
        message.attribute(libc::NDA_DST, &octets);
        message.attribute(libc::NDA_LLADDR, &mac);
        self.request(message).with_context(|| format!("add neighbour {address}"))
    }

    /// Forgets a neighbour.
    pub(crate) fn remove_neighbour(&mut self, device: u32, address: IpAddr) -> Result<()> {
        let (family, octets) = parts(address);
        let mut message = Message::new(libc::RTM_DELNEIGH, 0);
        message.bytes.extend([family, 0, 0, 0]);
        message.bytes.extend(device.to_ne_bytes());
        message.bytes.extend([0; 4]);
        message.attribute(libc::NDA_DST, &octets);
        self.request(message).with_context(|| format!("remove neighbour {address}"))
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&mut self, mut message: Message) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(message.bytes.len()).map_err(io::Error::other)?;
        message.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        message.bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let fd = self.socket.as_raw_fd();
        nix::sys::socket::send(fd, &message.bytes, nix::sys::socket::MsgFlags::empty())?;
        let mut answer = [0_u8; 4096];
        loop {
            let count = nix::sys::socket::recv(fd, &mut answer, nix::sys::socket::MsgFlags::empty())?;
            match acknowledgement(&answer[..count], self.sequence) {
                Some(0) => return Ok(()),
                Some(code) => return Err(io::Error::from_raw_os_error(-code)),
                None => {}
            }
        }
    }
}

/// The error code of the acknowledgement of `sequence`, if `datagram` is that.
fn acknowledgement(datagram: &[u8], sequence: u32) -> Option<i32> {
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let number = u32::from_ne_bytes(datagram.get(8..12)?.try_into().ok()?);
    let code = i32::from_ne_bytes(datagram.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR && number == sequence).then_some(code)
}

fn create() -> u16 {
    (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    let mut bytes = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes
}

/// A message under construction: header first, attributes after, each padded to four bytes.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Self { bytes }
    }

    fn link(kind: u16, flags: u16, index: u32, up: bool) -> Self {
        let mut message = Self::new(kind, flags);
        message.bytes.extend(link_header(index, up));
        message
    }

    fn end(&mut self, end: &End<'_>) {
        self.text(libc::IFLA_IFNAME, end.name);
        if let Some(mac) = end.mac {
            self.attribute(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(master) = end.master {
            self.attribute(libc::IFLA_MASTER, &master.to_ne_bytes());
        }
    }

    fn text(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    fn attribute(&mut self, kind: u16, payload: &[u8]) {
        self.nested_raw(kind, |message| message.bytes.extend(payload));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nested_raw(kind | NLA_F_NESTED, fill);
    }

    fn nested_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }
}

/// The hardware address that goes with an address of the lab, locally administered.
pub(crate) fn mac_for(address: Ipv6Addr) -> [u8; 6] {
    let octets = address.octets();
    [0x0a, 0x58, octets[4], octets[5], octets[14], octets[15]]
}
