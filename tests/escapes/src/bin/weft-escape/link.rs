//! Frames on an interface (AF_PACKET).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Socket, Type};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_ARP: u16 = 0x0806;
const EVERYBODY: [u8; 6] = [0xff; 6];

/// An interface to send on, and whom to.
pub(super) struct Link {
    socket: Socket,
    index: u32,
    own: [u8; 6],
    /// The gateway's hardware address.
    gateway: [u8; 6],
}

impl Link {
    pub(super) fn open(device: &str) -> Result<Self> {
        let own = own_mac(device).with_context(|| format!("{device} has no hardware address"))?;
        let table = std::fs::read_to_string("/proc/thread-self/net/arp")?;
        let gateway = table
            .lines()
            .filter(|line| line.ends_with(device))
            .find_map(|line| mac(line.split_ascii_whitespace().nth(3)?))
            .unwrap_or(EVERYBODY);
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        Ok(Self { socket, index: if_nametoindex(device)?, own, gateway })
    }

    /// Sends an IP datagram to the gateway.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let kind = if datagram.first().is_some_and(|first| first >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP };
        self.send_frame(self.gateway, kind, datagram)
    }

    fn send_frame(&self, to: [u8; 6], kind: u16, payload: &[u8]) -> io::Result<()> {
        let frame = [to.as_slice(), &self.own, &kind.to_be_bytes(), payload].concat();
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

/// Says again and again that an address is here.
pub(super) fn claim(address: Ipv4Addr, device: &str) -> Result<()> {
    let link = Link::open(device)?;
    let octets = address.octets();
    loop {
        // A reply that nobody asked for, and a question that names its asker: both are believed.
        for operation in [2_u8, 1] {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
            arp.extend(link.own);
            arp.extend(octets);
            arp.extend(if operation == 2 { EVERYBODY } else { [0; 6] });
            arp.extend(octets);
            link.send_frame(EVERYBODY, ETH_P_ARP, &arp)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()?.ok()?;
    }
    Some(mac)
}

fn own_mac(device: &str) -> Option<[u8; 6]> {
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    interfaces.find_map(|interface| {
        let address = interface.address.filter(|_| interface.interface_name == device)?;
        address.as_link_addr()?.addr()
    })
}
