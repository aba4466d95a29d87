//! Listening on TCP so that `[::]` means what operators mean by it: both families.
//!
//! Whether a socket of `[::]` hears IPv4 is a sysctl's default elsewhere (`net.ipv6.bindv6only`), and a kernel without IPv6 has no
//! such socket; a pod should be reached at whatever address it has. Any other address is listened on as it stands.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

#[cfg(test)]
mod tests;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A listener, non-blocking, that may take the place of one that just closed.
pub fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    match bound(addr) {
        Err(error) if is_any_v6(addr) && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))
        }
        result => result,
    }
}

fn is_any_v6(addr: SocketAddr) -> bool {
    addr.ip() == Ipv6Addr::UNSPECIFIED
}

fn bound(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if is_any_v6(addr) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
