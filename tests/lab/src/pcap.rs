//! Reading a capture: enough of pcap, Ethernet, IP and TCP to say what was on the wire in plain text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use memchr::memmem;

#[cfg(test)]
mod tests;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const LINKTYPE_ETHERNET: u32 = 1;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;

/// A capture that was read.
#[derive(Debug)]
pub struct Pcap {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where each packet is in `bytes`.
    frames: Vec<Range<usize>>,
    segments: Vec<Segment>,
}

/// One TCP segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Sender.
    pub src: SocketAddr,
    /// Receiver.
    pub dst: SocketAddr,
    /// Number of its first byte.
    pub sequence: u32,
    flags: u8,
    /// Where its payload is in the capture.
    payload: Range<usize>,
}

/// A connection whose first packet was captured.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who began it.
    pub client: SocketAddr,
    /// With whom.
    pub server: SocketAddr,
    /// It began with a ClientHello, and both directions are TLS records to the last byte.
    pub is_tls: bool,
}

impl Segment {
    /// A client's first packet.
    pub fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }
}

impl Pcap {
    /// Reads a file that tcpdump wrote. A last packet that is cut off is left out.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(bytes, path.to_owned()).with_context(|| format!("read {}", path.display()))
    }

    fn parse(bytes: Vec<u8>, path: PathBuf) -> Result<Self> {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
        match word(0) {
            // Microseconds or nanoseconds, little endian as this machine is.
            Some(0xa1b2_c3d4 | 0xa1b2_3c4d) => {}
            _ => bail!("not a pcap file of this machine's byte order"),
        }
        if word(20).map(|kind| kind & 0xffff) != Some(LINKTYPE_ETHERNET) {
            bail!("not a capture of Ethernet");
        }
        let mut frames = Vec::new();
        let mut at = 24;
        while let Some(length) = word(at + 8) {
            let frame = at + 16..at + 16 + length as usize;
            if frame.end > bytes.len() {
                break;
            }
            at = frame.end;
            frames.push(frame);
        }
        let segments = frames.iter().filter_map(|frame| segment(&bytes, frame.clone())).collect();
        Ok(Self { path, bytes, frames, segments })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many packets were captured.
    pub fn packets(&self) -> usize {
        self.frames.len()
    }

    /// All TCP segments, in order of capture.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// A segment's payload, as much of it as was captured.
    pub fn payload(&self, segment: &Segment) -> &[u8] {
        &self.bytes[segment.payload.clone()]
    }

    /// How many bytes of `needle` are on the wire in plain text: its length times how often it is found, in single packets
    /// (of any protocol) or across the packets of a TCP stream, whichever finds more.
    pub fn count_plaintext(&self, needle: &[u8]) -> usize {
        let finder = memmem::Finder::new(needle);
        let count = |hay: &[u8]| finder.find_iter(hay).count();
        let in_packets: usize = self.frames.iter().map(|frame| count(&self.bytes[frame.clone()])).sum();
        let in_streams: usize = self.streams().values().map(|stream| count(stream)).sum();
        in_packets.max(in_streams) * needle.len()
    }

    /// What went from one address to another, in order of sequence numbers, repetitions left out.
    fn streams(&self) -> BTreeMap<(SocketAddr, SocketAddr), Vec<u8>> {
        let mut flows: BTreeMap<(SocketAddr, SocketAddr), Vec<&Segment>> = BTreeMap::new();
        for segment in &self.segments {
            flows.entry((segment.src, segment.dst)).or_default().push(segment);
        }
        flows.into_iter().map(|(key, segments)| (key, self.join(&segments))).collect()
    }

    fn join(&self, segments: &[&Segment]) -> Vec<u8> {
        let Some(first) = segments.first() else { return Vec::new() };
        // Relative to the first packet seen, which may itself come after one that was sent earlier.
        let offset = |segment: &Segment| segment.sequence.wrapping_sub(first.sequence) as i32;
        let mut ordered: Vec<&&Segment> =
            segments.iter().filter(|segment| !segment.payload.is_empty()).collect();
        ordered.sort_by_key(|segment| offset(segment));
        let mut stream = Vec::new();
        let mut next: Option<i64> = None;
        for segment in ordered {
            let payload = self.payload(segment);
            let start = i64::from(offset(segment));
            let end = start + payload.len() as i64;
            let known = next.map_or(0, |next| (next - start).max(0)) as usize;
            if let Some(fresh) = payload.get(known..) {
                stream.extend_from_slice(fresh);
            }
            next = Some(next.map_or(end, |next| next.max(end)));
        }
        stream
    }

    /// Connections begun, by anybody to anybody (a SYN that was sent again counts once).
    pub fn tcp_syns(&self) -> usize {
        let syns = self.segments.iter().filter(|segment| segment.is_syn());
        syns.map(|segment| (segment.src, segment.dst, segment.sequence)).collect::<BTreeSet<_>>().len()
    }

    /// The SYNs that were sent to an address and port: a captured pod's peer must see none at its own port.
    pub fn plaintext_syns_to(&self, address: IpAddr, port: u16) -> usize {
        let to = SocketAddr::new(address, port);
        self.segments.iter().filter(|segment| segment.is_syn() && segment.dst == to).count()
    }

    /// Connections begun while the capture ran.
    pub fn connections(&self) -> Vec<Connection> {
        let streams = self.streams();
        let syns = self.segments.iter().filter(|segment| segment.is_syn());
        let pairs: BTreeSet<_> = syns.map(|segment| (segment.src, segment.dst)).collect();
        let stream = |from, to| streams.get(&(from, to)).map(Vec::as_slice).unwrap_or_default();
        let connection = |(client, server): (SocketAddr, SocketAddr)| {
            let (sent, received) = (stream(client, server), stream(server, client));
            let is_tls = is_client_hello(sent) && are_tls_records(sent) && are_tls_records(received);
            Connection { client, server, is_tls }
        };
        pairs.into_iter().map(connection).collect()
    }

    /// Connections in which the client's first bytes are a TLS ClientHello.
    pub fn tls_connections(&self) -> usize {
        let hello = |segment: &&Segment| is_client_hello(self.payload(segment));
        self.segments
            .iter()
            .filter(hello)
            .map(|segment| (segment.src, segment.dst))
            .collect::<BTreeSet<_>>()
            .len()
    }
}

/// Record type handshake, any version, handshake type ClientHello (RFC 8446, sections 5.1 and 4).
fn is_client_hello(payload: &[u8]) -> bool {
    payload.len() > 5 && payload[0] == 22 && payload[1] == 3 && payload[5] == 1
}

/// Whether a stream is nothing but TLS records, the last of which may be cut off (RFC 8446, section 5.1; a record of
/// ciphertext has 2^14 + 256 bytes at most, section 5.2).
fn are_tls_records(mut stream: &[u8]) -> bool {
    while let [kind, major, _, high, low, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(20..=23).contains(kind) || *major != 3 || length > (1 << 14) + 256 {
            return false;
        }
        stream = rest.get(length..).unwrap_or_default();
    }
    true
}

/// The TCP segment in a frame, if it holds one. Lengths are the capture's, not the headers': packets of segmentation
/// offload may say 0 (BIG TCP).
fn segment(bytes: &[u8], frame: Range<usize>) -> Option<Segment> {
    let packet = bytes.get(frame.clone())?;
    let kind = u16::from_be_bytes(packet.get(12..14)?.try_into().ok()?);
    let ip = packet.get(14..)?;
    let (src, dst, header, total): (IpAddr, IpAddr, usize, usize) = match kind {
        ETHERTYPE_IPV4 => {
            let header = usize::from(ip.first()? & 15) * 4;
            if *ip.get(9)? != TCP {
                return None;
            }
            let total = usize::from(u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?));
            (v4(ip.get(12..16)?)?.into(), v4(ip.get(16..20)?)?.into(), header, total)
        }
        ETHERTYPE_IPV6 => {
            let payload = usize::from(u16::from_be_bytes(ip.get(4..6)?.try_into().ok()?));
            let total = if payload == 0 { 0 } else { payload + 40 };
            let header = match *ip.get(6)? {
                TCP => 40,
                HOP_BY_HOP if *ip.get(40)? == TCP => 40 + 8 + usize::from(*ip.get(41)?) * 8,
                _ => return None,
            };
            (v6(ip.get(8..24)?)?.into(), v6(ip.get(24..40)?)?.into(), header, total)
        }
        _ => return None,
    };
    let tcp = ip.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let (source, destination) = (port(0)?, port(2)?);
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let data = usize::from(tcp.get(12)? >> 4) * 4;
    let flags = *tcp.get(13)?;
    let start = frame.start + 14 + header + data;
    // Short frames are padded; what the IP header does not count is not payload.
    let end = if total == 0 { frame.end } else { frame.end.min(frame.start + 14 + total) };
    Some(Segment {
        src: SocketAddr::new(src, source),
        dst: SocketAddr::new(dst, destination),
        sequence,
        flags,
        payload: start.min(end)..end,
    })
}

fn v4(octets: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(octets).ok()?.into())
}

fn v6(octets: &[u8]) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(octets).ok()?.into())
}
