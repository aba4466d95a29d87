//! TCP segments made by hand.

use std::net::{IpAddr, SocketAddr};

pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
const TCP: u8 = 6;

/// What a segment says.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) flags: u8,
    pub(super) payload: Vec<u8>,
}

impl Segment {
    /// The datagram, from the IP header on.
    pub(super) fn datagram(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        tcp.extend([5 << 4, self.flags]);
        tcp.extend(64_000_u16.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.payload);
        let length = tcp.len() as u16;
        let (source, destination) = (octets(self.from.ip()), octets(self.to.ip()));
        let mut pseudo = [source.as_slice(), &destination, &[0, TCP], &length.to_be_bytes()].concat();
        pseudo.extend(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let mut whole = match self.from.ip() {
            IpAddr::V4(_) => {
                let mut header = vec![0x45, 0];
                header.extend((20 + length).to_be_bytes());
                header.extend([0, 1, 0x40, 0, 64, TCP, 0, 0]);
                header.extend([source, destination].concat());
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                header
            }
            IpAddr::V6(_) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(length.to_be_bytes());
                header.extend([TCP, 64]);
                header.extend([source, destination].concat());
                header
            }
        };
        whole.extend(tcp);
        whole
    }

    /// Reads a TCP segment whose IP header has been taken off.
    pub(super) fn read(from: IpAddr, to: IpAddr, tcp: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddr::new(from, half(0)?),
            to: SocketAddr::new(to, half(2)?),
            sequence: word(4)?,
            acknowledged: word(8)?,
            flags: *tcp.get(13)?,
            payload: tcp.get(header..)?.to_vec(),
        })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
