//! Connecting sockets of the agent's that live in a pod's network namespace, and the ways to end one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mesh_model::Reason;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::kernel::maps::Maps;
use crate::netns::Netns;

/// How long a destination may take to answer a SYN: the client's own connect has succeeded long ago.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Loopback sources for deliveries: each gives 28,232 connections to one port at the kernel's defaults.
const V4_SOURCES: u8 = 8;

/// Connects from the pod's own address.
pub async fn connect(netns: &Netns, to: SocketAddr) -> io::Result<TcpStream> {
    let started = netns.within(|| {
        let socket = fresh(to)?;
        let state = start(&socket, to)?;
        Ok((socket, state))
    })?;
    finish(started).await
}

/// Connects to an application of the pod on behalf of `client`; the kernel hands the application the client's address.
///
/// IPv4 from loopback: there `sk_lookup` refuses whatever has no note. IPv6 from the pod's own address, because the kernel
/// routes no RST to ::1 out of nowhere (a closed port would be silence); there the note is checked here.
pub async fn deliver(
    netns: &Netns,
    maps: &Maps,
    to: SocketAddr,
    client: SocketAddr,
) -> io::Result<TcpStream> {
    let started = netns.within(|| {
        let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for source in delivery_sources(to.ip()) {
            let socket = fresh(to)?;
            maps.note_delivery(&socket, client).map_err(io::Error::other)?;
            bind_without_port(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            result = start(&socket, to).map(|state| (socket, state));
            match &result {
                // All ports of this source are taken.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                _ => break,
            }
        }
        result
    })?;
    if maps.delivery_lost(&started.0) {
        return Err(io::Error::other("the kernel's map of deliveries is full"));
    }
    finish(started).await
}

fn delivery_sources(to: IpAddr) -> impl Iterator<Item = IpAddr> {
    let sources = if to.is_ipv4() { V4_SOURCES } else { 1 };
    (1..=sources).map(move |last| match to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)),
        IpAddr::V6(own) => IpAddr::V6(own),
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
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL))
        | (io::ErrorKind::AddrNotAvailable, _) => Reason::Exhausted,
        _ => Reason::ConnectFailed,
    }
}
