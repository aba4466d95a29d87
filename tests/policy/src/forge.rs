//! Packets of one's own making, as a program with NET_RAW sends them: the beginning of a connection from whatever address, and
//! claims of an address by ARP and by neighbour discovery.
//!
//! To be called on a thread in the sender's network namespace. No cgroup hook sees raw sockets, so what stops them is on the way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// How a frame is wrapped: what is in it is the same to whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// As usual.
    Plain,
    /// With a VLAN tag that has a priority and no VLAN: kernels take it off.
    PriorityTag,
    /// IPv6: behind more extension headers than anybody needs, which say nothing.
    Headers,
}

const DEVICE: &str = "eth0";
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends a SYN from a raw socket.
pub fn syn(from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let (family, datagram) = begin(from, to)?;
    // With the header made here, whatever source it names.
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    // A raw socket's destination has no port.
    let to = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(raw.as_raw_fd(), &datagram, &to, MsgFlags::empty())?;
    Ok(())
}

/// Sends a SYN in a frame of its own to the gateway.
pub fn framed_syn(from: SocketAddr, to: SocketAddr, wrap: Wrap) -> io::Result<()> {
    let (family, datagram) = begin(from, to)?;
    let kind = if family == AddressFamily::Inet { 0x0800 } else { 0x86dd };
    let link = Link::open(wrap)?;
    link.send(gateway()?, kind, &datagram)
}

/// The datagram that begins a connection.
fn begin(from: SocketAddr, to: SocketAddr) -> io::Result<(AddressFamily, Vec<u8>)> {
    let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    tcp.extend(1_000_000_u32.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 5 << 4, 0x02]);
    tcp.extend(64_000_u16.to_be_bytes());
    tcp.extend([0; 4]);
    let sum = transport_sum(from.ip(), to.ip(), TCP, &tcp);
    tcp[16..18].copy_from_slice(&sum);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok((AddressFamily::Inet, ipv4(from, to, &tcp))),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok((AddressFamily::Inet6, ipv6(from, to, (TCP, 64), &tcp))),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Says that an IPv4 address is here: an answer that nobody asked for, and a question that names its asker. Both are believed.
pub fn claim_v4(address: Ipv4Addr, wrap: Wrap) -> io::Result<()> {
    let link = Link::open(wrap)?;
    for operation in [2, 1] {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
        arp.extend(link.own);
        arp.extend(address.octets());
        arp.extend(if operation == 2 { EVERYBODY } else { [0; 6] });
        arp.extend(address.octets());
        link.send(EVERYBODY, 0x0806, &arp)?;
    }
    Ok(())
}

/// Says that an IPv6 address is here: an advertisement that nobody asked for and that overrides, from the own address and from
/// the one that is claimed.
pub fn claim_v6(own: Ipv6Addr, address: Ipv6Addr, wrap: Wrap) -> io::Result<()> {
    let link = Link::open(wrap)?;
    for from in [own, address] {
        // Type, code, checksum; override; the target; option: the target's hardware address.
        let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
        body.extend(address.octets());
        body.extend([2, 1]);
        body.extend(link.own);
        let sum = transport_sum(from.into(), ALL_NODES.into(), ICMPV6, &body);
        body[2..4].copy_from_slice(&sum);
        let datagram = match wrap {
            Wrap::Headers => ipv6(from, ALL_NODES, (DESTINATION_OPTIONS, 255), &behind_headers(&body)),
            _ => ipv6(from, ALL_NODES, (ICMPV6, 255), &body),
        };
        link.send([0x33, 0x33, 0, 0, 0, 1], 0x86dd, &datagram)?;
    }
    Ok(())
}

/// The hardware address of the namespace's device, as `ip neigh` writes it.
pub fn own_mac() -> io::Result<String> {
    let own = Link::open(Wrap::Plain)?.own;
    Ok(own.map(|byte| format!("{byte:02x}")).join(":"))
}

/// The gateway's hardware address.
fn gateway() -> io::Result<[u8; 6]> {
    let table = std::fs::read_to_string("/proc/thread-self/net/arp")?;
    let mut lines = table.lines().filter(|line| line.ends_with(DEVICE));
    let text = lines.find_map(|line| line.split_ascii_whitespace().nth(3));
    let text = text.ok_or_else(|| io::Error::other("no gateway"))?;
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(text, 16).map_err(io::Error::other)?;
    }
    Ok(mac)
}

/// Options for the destination, of padding alone.
fn behind_headers(message: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 7;
    let header = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let mut all = Vec::new();
    for number in 1..=HEADERS {
        all.extend(header(if number == HEADERS { ICMPV6 } else { DESTINATION_OPTIONS }));
    }
    all.extend(message);
    all
}

/// The device, to send frames on.
struct Link {
    socket: OwnedFd,
    index: u32,
    own: [u8; 6],
    wrap: Wrap,
}

impl Link {
    fn open(wrap: Wrap) -> io::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let mut interfaces = nix::ifaddrs::getifaddrs()?.filter(|one| one.interface_name == DEVICE);
        let own = interfaces.find_map(|one| one.address?.as_link_addr()?.addr());
        let own = own.ok_or_else(|| io::Error::other("no hardware address"))?;
        Ok(Self { socket, index: if_nametoindex(DEVICE)?, own, wrap })
    }

    fn send(&self, to: [u8; 6], kind: u16, payload: &[u8]) -> io::Result<()> {
        // Priority 5 in VLAN 0.
        let tag: &[u8] = if self.wrap == Wrap::PriorityTag { &[0x81, 0, 0xa0, 0] } else { &[] };
        let frame = [to.as_slice(), &self.own, tag, &kind.to_be_bytes(), payload].concat();
        // SAFETY: a structure of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = self.index as i32;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&to);
        // SAFETY: both pointers are to live values of the lengths given.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, TCP, 0, 0]);
    header.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [header.as_slice(), payload].concat()
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, (protocol, hops): (u8, u8), payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([protocol, hops]);
    header.extend([from.octets(), to.octets()].concat());
    [header.as_slice(), payload].concat()
}

/// Over the addresses too (RFC 9293, RFC 4443).
fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> [u8; 2] {
    let octets = |address| match address {
        IpAddr::V4(address) => Ipv4Addr::octets(&address).to_vec(),
        IpAddr::V6(address) => Ipv6Addr::octets(&address).to_vec(),
    };
    let length = (payload.len() as u16).to_be_bytes();
    let pseudo = [octets(from).as_slice(), &octets(to), &[0, protocol], &length, payload].concat();
    checksum(&pseudo).to_be_bytes()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
