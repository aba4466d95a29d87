//! Connecting sockets of the agent's that live in a pod's network namespace, and the ways to end one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mesh_common::Addr;
use mesh_model::Reason;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::kernel::maps::Maps;
use crate::netns::Netns;

mod claim;

pub use claim::Claim;

/// How long a destination may take to answer a SYN: the client's own connect has succeeded long ago.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Loopback sources for deliveries over IPv4: each gives 28,232 connections to one port at the kernel's defaults. From
/// loopback TIME_WAIT is no obstacle (`tcp_tw_reuse` is 2), so that many may be open.
const V4_SOURCES: u8 = 8;
/// Sources in 100::/64 for deliveries over IPv6, where TIME_WAIT is one: room for all that a kernel keeps.
const V6_SOURCES: u8 = 32;

/// The source that the next delivery tries first: in turn, because looking for a port among many taken ones is slow.
static NEXT_SOURCE: AtomicU8 = AtomicU8::new(0);

/// Connects from the pod's own address, also where the kernel would rather take another one that the pod has.
pub async fn connect(netns: &Netns, from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let started = netns.within(|| {
        let socket = fresh(to)?;
        if let Some(from) = from {
            bind_without_port(&socket)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        let state = start(&socket, to)?;
        Ok((socket, state))
    })?;
    finish(started).await
}

/// Connects to an application of the pod on behalf of `client`; the kernel hands the application the client's address, which
/// is no other connection's as long as the claim is held.
///
/// IPv4 from loopback, IPv6 from 100::/64 (the kernel routes no RST to ::1 out of nowhere, so a closed port would be
/// silence): `sk_lookup` refuses whatever comes from there without a note. In a pod without that route, from its own
/// address, where the note is checked here alone.
pub async fn deliver(
    netns: &Netns,
    maps: &Maps,
    to: SocketAddr,
    client: SocketAddr,
) -> io::Result<(TcpStream, Claim)> {
    let claim = Claim::new(to, client);
    let started = netns.within(|| {
        let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for source in delivery_sources(to.ip(), netns.has_delivery_route()) {
            let socket = fresh(to)?;
            maps.note_delivery(&socket, claim.client()).map_err(io::Error::other)?;
            bind_without_port(&socket)?;
            if source.is_ipv6() {
                // No interface has the address.
                socket.set_freebind_v6(true)?;
            }
            socket.bind(&SocketAddr::new(source, 0).into())?;
            let begun = start(&socket, to);
            // From elsewhere than the pod's own address it cannot have gone well without its note.
            if (begun.is_err() || source == to.ip()) && maps.delivery_lost(&socket) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    "the kernel's map of deliveries is full",
                ));
            }
            result = begun.map(|state| (socket, state));
            match &result {
                // All ports of this source are taken.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                _ => break,
            }
        }
        result
    })?;
    finish(started).await.map(|stream| (stream, claim))
}

fn delivery_sources(to: IpAddr, routed: bool) -> impl Iterator<Item = IpAddr> {
    let sources = match to {
        IpAddr::V4(_) => V4_SOURCES,
        IpAddr::V6(_) if routed => V6_SOURCES,
        IpAddr::V6(_) => 1,
    };
    let first = NEXT_SOURCE.fetch_add(1, Ordering::Relaxed);
    (0..sources).map(move |turn| {
        let last = first.wrapping_add(turn) % sources + 1;
        match to {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
            IpAddr::V6(_) if routed => {
                let mut octets = Addr::DELIVERY_PREFIX.octets();
                octets[15] = last;
                IpAddr::V6(Ipv6Addr::from(octets))
            }
            IpAddr::V6(own) => IpAddr::V6(own),
        }
    })
}

fn fresh(to: SocketAddr) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// How far a connect is.
enum State {
    Connected,
    Waiting,
}

/// Begins to connect. Who is on this node has answered within the call, and the second one says what.
fn start(socket: &Socket, to: SocketAddr) -> io::Result<State> {
    let to = to.into();
    let begun = match socket.connect(&to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => socket.connect(&to),
        other => other,
    };
    match begun {
        Ok(()) => Ok(State::Connected),
        Err(error) if error.raw_os_error() == Some(libc::EALREADY) => Ok(State::Waiting),
        Err(error) => Err(error),
    }
}

async fn finish((socket, state): (Socket, State)) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    if matches!(state, State::Connected) {
        return Ok(stream);
    }
    let connected = async {
        stream.writable().await?;
        stream.take_error()?.map_or(Ok(()), Err)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
        Ok(result) => result.map(|()| stream),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The kernel chooses the port at connect, so that one port serves many destinations (`IP_BIND_ADDRESS_NO_PORT`,
/// Linux 4.2).
fn bind_without_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live local of the size that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends a connection with a RST: the other end sees an error, never a clean end.
pub fn reset(stream: TcpStream) {
    // A socket that is already dead needs no reset.
    let _dead = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// The word for why a connect failed.
pub fn connect_reason(error: &io::Error) -> Reason {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => Reason::ConnectRefused,
        (io::ErrorKind::TimedOut, _) => Reason::ConnectTimeout,
        (io::ErrorKind::StorageFull, _) => Reason::MapFull,
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL))
        | (io::ErrorKind::AddrNotAvailable, _) => Reason::Exhausted,
        _ => Reason::ConnectFailed,
    }
}

#[cfg(test)]
mod tests;
