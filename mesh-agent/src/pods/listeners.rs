//! The agent's listening sockets in a pod's network namespace: three at each of the pod's addresses.
//!
//! Bound to the pod's own address and reached through `sk_lookup` alone, which asks for no port: where a program of the pod's
//! listens at one of the ports already, any other port will do, and a pod cannot keep itself out of the mesh that way.
//! Not here: accepting (`capture`).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use mesh_common::ListenerKey;
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::{DeliveryRoute, Netns};

/// Longer than any burst that one turn of the event loop leaves waiting; `net.core.somaxconn` of the pod caps it.
const BACKLOG: i32 = 4096;
/// Per network namespace.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

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
        name_backlog(netns);
        let mut listeners = Vec::new();
        for address in addresses {
            for port in ListenerKey::ALL {
                let socket = listen(SocketAddr::new(*address, port as u16)).map_err(|error| {
                    let kind = if is_exhausted(&error) { io::ErrorKind::QuotaExceeded } else { error.kind() };
                    io::Error::new(kind, format!("cannot listen at {address} port {port}: {error}"))
                })?;
                listeners.push(Listener { address: *address, port, socket });
            }
        }
        Ok(listeners)
    })
}

/// Whether descriptors or memory are what was missing.
pub fn is_exhausted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::QuotaExceeded
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Says, once a namespace, that its bursts of new connections are cut shorter than they could be. On a thread in the
/// namespace.
fn name_backlog(netns: &Netns) {
    let allowed = std::fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(allowed) = allowed.filter(|allowed| *allowed < BACKLOG)
        && netns.name_backlog()
    {
        tracing::warn!(
            cookie = netns.cookie(),
            somaxconn = allowed,
            wanted = BACKLOG,
            "net.core.somaxconn of a pod is low: bursts of new connections are retried after a second"
        );
    }
}

/// What deliveries over IPv6 need in a pod's namespace, if it has an IPv6 address and the kernel lets us. Without it they
/// come from the pod's own address, which runs out of ports sooner.
pub fn delivery_route(netns: &Arc<Netns>, addresses: &[IpAddr]) -> Option<Arc<DeliveryRoute>> {
    if !addresses.iter().any(IpAddr::is_ipv6) {
        return None;
    }
    match DeliveryRoute::keep(netns) {
        Ok(route) => Some(route),
        Err(error) => {
            tracing::warn!(cookie = netns.cookie(), %error, "no route for IPv6 deliveries in a pod; they come from its own address");
            None
        }
    }
}

/// Opens one of them, in the place of one that was lost.
pub fn open_one(netns: &Netns, address: IpAddr, port: u32) -> io::Result<Listener> {
    let socket = netns.within(|| listen(SocketAddr::new(address, port as u16)))?;
    Ok(Listener { address, port, socket })
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
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
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
