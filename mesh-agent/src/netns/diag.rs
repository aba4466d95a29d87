//! The TCP sockets of a network namespace, seen and ended from outside (sock_diag(7)).
//!
//! ```text
//! dump of one family ─▶ TcpSocket, TcpSocket, …          TcpSocket ─▶ SOCK_DESTROY ─▶ the application reads ECONNABORTED,
//!                                                                                     the other end gets a RST
//! ```
//!
//! The netlink socket is made inside the namespace and belongs to it for ever, so what follows needs no `setns`. By hand and
//! not through a netlink crate: it is two requests. Ending needs `CONFIG_INET_DIAG_DESTROY`; without it the kernel says
//! EOPNOTSUPP. Not here: which sockets are to end (`pods::earlier`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv, send};

use super::Netns;

/// linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: both ports, both addresses, interface, cookie.
const ID: usize = 48;
/// Family, state, timer and retransmissions before the id in `struct inet_diag_msg`.
const BEFORE_ID: usize = 4;
/// Expiry, queues, owner and inode after it.
const AFTER_ID: usize = 20;
/// The attribute with `struct tcp_info`, and how it is asked for.
const INET_DIAG_INFO: u16 = 2;
const INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// In `struct tcp_info`.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
/// States of linux/tcp_states.h, by number.
const FIN_WAIT2: u8 = 5;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// A connection that arrives and is not yet a socket.
const NEW_SYN_RECV: u8 = 12;
/// States that are of interest: in which bytes may still go out, and listening.
const STATES: u32 = 0x1fff & !(1 | 1 << TIME_WAIT | 1 << CLOSE | 1 << NEW_SYN_RECV);

/// A way to a namespace's sockets.
#[derive(Debug)]
pub struct Diag {
    socket: OwnedFd,
}

/// What a connection has moved so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedSocket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Bytes that the other end has acknowledged.
    pub sent: u64,
    /// Bytes that have come.
    pub received: u64,
}

/// A TCP socket that listens, or whose connection is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// As the kernel wrote it: what it is known by, cookie included.
    id: [u8; ID],
    family: u8,
    state: u8,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end, as its owner dialled it: a Service's address, too.
    pub remote: SocketAddr,
}

impl TcpSocket {
    /// It waits for connections.
    pub fn listens(&self) -> bool {
        self.state == LISTEN
    }
}

impl Diag {
    /// Of a namespace.
    pub fn open(netns: &Netns) -> io::Result<Self> {
        netns.within(|| {
            // SAFETY: socket(2) takes no pointers; the result is checked before it becomes an OwnedFd, which alone owns it.
            let socket = unsafe {
                let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
                let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG);
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                OwnedFd::from_raw_fd(fd)
            };
            Ok(Self { socket })
        })
    }

    /// Every socket that listens or is connected, or about to be, of both families.
    pub fn sockets(&self) -> io::Result<Vec<TcpSocket>> {
        self.dump(0, STATES, read_socket)
    }

    /// Every connection, with what it has moved.
    pub fn counted(&self) -> io::Result<Vec<CountedSocket>> {
        self.dump(INFO, STATES, read_counted)
    }

    /// Ports and inodes of the sockets that listen. The kernel looks at no others, however many connections there are.
    pub fn listeners(&self) -> io::Result<Vec<(u16, u64)>> {
        self.dump(0, 1 << LISTEN, read_listener)
    }

    /// `extension`: beside what every socket has.
    fn dump<T>(&self, extension: u8, states: u32, read: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
            self.send(&request(SOCK_DIAG_BY_FAMILY, flags, family, extension, states, &[0; ID]))?;
            let mut room = vec![0; 32 << 10];
            // The kernel fills one datagram a call: nothing is waited for.
            while !read_dump(self.receive(&mut room)?, &mut found, read)? {}
        }
        Ok(found)
    }

    /// Ends a connection from both ends. `NotFound`: it has ended by itself.
    pub fn destroy(&self, socket: &TcpSocket) -> io::Result<()> {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        self.send(&request(SOCK_DESTROY, flags, socket.family, 0, STATES, &socket.id))?;
        let mut room = [0; 1024];
        let answer = self.receive(&mut room)?;
        match messages(answer).next() {
            Some((kind, body)) if i32::from(kind) == libc::NLMSG_ERROR => result(body),
            _ => Err(io::Error::other("an answer that is no acknowledgement")),
        }
    }

    /// Whether this kernel can end connections at all: it is asked to end one that cannot be.
    pub fn can_destroy(&self) -> io::Result<()> {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let family = libc::AF_INET as u8;
        match self.destroy(&TcpSocket { id: [0; ID], family, state: CLOSE, local: nobody, remote: nobody }) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), message, MsgFlags::empty())?;
        Ok(())
    }

    fn receive<'a>(&self, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let count = recv(self.socket.as_raw_fd(), room, MsgFlags::empty())?;
        Ok(room.get(..count).unwrap_or_default())
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, extension: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 8 + ID);
    bytes.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time.
    bytes.extend([0; 8]);
    // And padding.
    bytes.extend([family, libc::IPPROTO_TCP as u8, extension, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// The messages of a datagram: kind and body.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let body = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The code of an acknowledgement or of a dump's end: zero, or a negative errno.
fn result(body: &[u8]) -> io::Result<()> {
    match body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

/// Takes a datagram of a dump. Whether it was the last.
fn read_dump<T>(datagram: &[u8], found: &mut Vec<T>, read: fn(&[u8]) -> Option<T>) -> io::Result<bool> {
    for (kind, body) in messages(datagram) {
        match i32::from(kind) {
            libc::NLMSG_DONE | libc::NLMSG_ERROR => return result(body).map(|()| true),
            _ => found.extend(read(body)),
        }
    }
    // An empty datagram would be asked for again for ever.
    if datagram.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) }
}

/// The same with `struct tcp_info`, of which two fields are read.
fn read_counted(body: &[u8]) -> Option<CountedSocket> {
    let TcpSocket { local, remote, state, .. } = read_socket(body)?;
    let mut attributes = body.get(BEFORE_ID + ID + AFTER_ID..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let payload = attributes.get(4..length)?;
        if kind == INET_DIAG_INFO {
            let number = |at: usize| Some(u64::from_ne_bytes(payload.get(at..at + 8)?.try_into().ok()?));
            // The SYN and each FIN count as a byte.
            let (ours, theirs) = match state {
                FIN_WAIT2 => (1, 0),
                CLOSE_WAIT | LAST_ACK | CLOSING => (0, 1),
                _ => (0, 0),
            };
            return (state != LISTEN).then_some(CountedSocket {
                local,
                remote,
                sent: number(BYTES_ACKED)?.saturating_sub(1 + ours),
                received: number(BYTES_RECEIVED)?.saturating_sub(theirs),
            });
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// The inode is what `struct inet_diag_msg` ends with.
fn read_listener(body: &[u8]) -> Option<(u16, u64)> {
    let socket = read_socket(body)?;
    let at = BEFORE_ID + ID + AFTER_ID - 4;
    let inode = u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?);
    socket.listens().then_some((socket.local.port(), inode.into()))
}

/// `struct inet_diag_msg`.
fn read_socket(body: &[u8]) -> Option<TcpSocket> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let id: [u8; ID] = body.get(BEFORE_ID..BEFORE_ID + ID)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        let octets: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = octets;
        Some(match i32::from(family) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            _ => IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(),
        })
    };
    let local = SocketAddr::new(address(4)?, port(0)?);
    let remote = SocketAddr::new(address(20)?, port(2)?);
    Some(TcpSocket { id, family, state, local, remote })
}

#[cfg(test)]
mod tests;
