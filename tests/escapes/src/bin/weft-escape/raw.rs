//! A TCP handshake without a TCP socket: crafted segments out, a raw socket's copies in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::link::Link;
use crate::packet::{ACK, PSH, RST, SYN, Segment};

const SEQUENCE: u32 = 1_000_000;

enum Out {
    Raw(Socket),
    Link(Link),
}

impl Out {
    fn send(&self, segment: &Segment) -> io::Result<()> {
        match self {
            Self::Raw(socket) => {
                // The port of a raw socket's destination must be 0 for IPv6.
                let to = SockAddr::from(SocketAddr::new(segment.to.ip(), 0));
                socket.send_to(&segment.datagram(), &to).map(drop)
            }
            Self::Link(link) => link.send(&segment.datagram()),
        }
    }
}

/// Sends a SYN; if it is answered, the rest of the handshake and `say`; prints what came back.
pub(super) fn converse(
    from: SocketAddr,
    to: SocketAddr,
    say: &str,
    device: Option<&str>,
    patience: Duration,
) -> Result<()> {
    let domain = Domain::for_address(to);
    let ears = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
    ears.set_read_timeout(Some(Duration::from_millis(20)))?;
    let out = match device {
        Some(device) => Out::Link(Link::open(device)?),
        None => {
            let mouth = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
            Out::Raw(mouth)
        }
    };
    let segment = |sequence, acknowledged, flags, payload: &[u8]| Segment {
        from,
        to,
        sequence,
        acknowledged,
        flags,
        payload: payload.to_vec(),
    };
    out.send(&segment(SEQUENCE, 0, SYN, b""))?;
    let answer = await_segment(&ears, from, to, patience, |answer| answer.flags & (SYN | RST) != 0)?;
    let accepted = answer.as_ref().is_some_and(|answer| answer.flags & (SYN | ACK) == SYN | ACK);
    let mut heard = String::new();
    let mut reset = answer.as_ref().is_some_and(|answer| answer.flags & RST != 0);
    if let Some(answer) = answer.filter(|_| accepted) {
        let next = answer.sequence.wrapping_add(1);
        out.send(&segment(SEQUENCE + 1, next, ACK, b""))?;
        out.send(&segment(SEQUENCE + 1, next, ACK | PSH, format!("{say}\n").as_bytes()))?;
        let told = |answer: &Segment| answer.flags & RST != 0 || !answer.payload.is_empty();
        if let Some(told) = await_segment(&ears, from, to, patience, told)? {
            reset = told.flags & RST != 0;
            heard = String::from_utf8_lossy(&told.payload).trim().to_owned();
        }
    }
    println!("{}", json!({ "accepted": accepted, "reset": reset, "heard": heard }));
    Ok(())
}

/// The next segment of the connection that came for us and is as wanted.
fn await_segment(
    ears: &Socket,
    own: SocketAddr,
    other: SocketAddr,
    patience: Duration,
    wanted: impl Fn(&Segment) -> bool,
) -> io::Result<Option<Segment>> {
    use std::io::Read;
    let start = Instant::now();
    let mut buffer = vec![0; 65_536];
    while start.elapsed() < patience {
        let mut ears = ears;
        let length = match ears.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        // For IPv4 the header comes along, for IPv6 it does not (ipv6(7)); who sent it is in the segment's ports here.
        let tcp = match own.ip() {
            IpAddr::V4(_) => buffer.get(usize::from(buffer[0] & 15) * 4..length),
            IpAddr::V6(_) => buffer.get(..length),
        };
        let Some(segment) = tcp.and_then(|tcp| Segment::read(other.ip(), own.ip(), tcp)) else { continue };
        if segment.from.port() == other.port() && segment.to.port() == own.port() && wanted(&segment) {
            return Ok(Some(segment));
        }
    }
    Ok(None)
}
