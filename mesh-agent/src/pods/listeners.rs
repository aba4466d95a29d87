//! The agent's listening sockets in a pod's network namespace: three at each of the pod's addresses.
//!
//! Bound to the pod's own address and reached through `sk_lookup` alone, which asks for no port: where a program of the pod's
//! listens at one of the ports already, any other port will do, and a pod cannot keep itself out of the mesh that way.
//! Not here: accepting (`capture`).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use mesh_common::ListenerKey;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Longer than any burst that one turn of the event loop leaves waiting; `net.core.somaxconn` of the pod caps it.
const BACKLOG: i32 = 4096;

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Listener {
    /// The pod's address.
    pub address: IpAddr,
    /// [`ListenerKey::OUTBOUND`], [`ListenerKey::PLAINTEXT`] or [`ListenerKey::HBONE`].
    pub port: u32,
    /// Non-blocking.
    pub socket: TcpListener,
}

/// Opens all listeners of a pod, or none.
pub fn open(netns: &Netns, addresses: &[IpAddr]) -> io::Result<Vec<Listener>> {
    netns.within(|| {
        let mut listeners = Vec::new();
        for address in addresses {
            for port in ListenerKey::ALL {
                let socket = listen(SocketAddr::new(*address, port as u16)).map_err(|error| {
                    io::Error::new(error.kind(), format!("cannot listen at {address} port {port}: {error}"))
                })?;
                listeners.push(Listener { address: *address, port, socket });
            }
        }
        Ok(listeners)
    })
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // The address may still be tentative (IPv6 duplicate detection) or not yet configured.
    match at {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    // Two sockets may be bound to one port, and only one of them may listen there: the conflict shows at either call.
    match socket.bind(&at.into()).and_then(|()| socket.listen(BACKLOG)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && at.port() != 0 => {
            tracing::warn!(%at, "a program of the pod's listens at a port of the agent's; nobody reaches it there now");
            listen(SocketAddr::new(at.ip(), 0))
        }
        listening => listening.map(|()| socket.into()),
    }
}

/// The addresses that a namespace has, link-local and loopback ones left out; at most one of each family. Used while
/// the Pod object does not say.
pub fn addresses_of(netns: &Netns) -> io::Result<Vec<IpAddr>> {
    netns.within(|| {
        let mut found: Vec<IpAddr> = Vec::new();
        for interface in nix::ifaddrs::getifaddrs()? {
            let Some(address) = interface.address else { continue };
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => continue,
            };
            let usable = match ip {
                IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
                IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            };
            if usable && !found.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
                found.push(ip);
            }
        }
        Ok(found)
    })
}
