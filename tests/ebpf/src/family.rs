//! The three kinds of socket address that a TCP client dials with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lab::Pod;
use mesh_common::Addr;
use socket2::Domain;

/// How a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6 with an IPv6 address.
    V6,
    /// AF_INET6 with an IPv4-mapped address: what most programs do that know one kind of socket.
    Mapped,
}

impl Family {
    /// All three.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];
    /// Those that a packet may have.
    pub const ON_THE_WIRE: [Self; 2] = [Self::V4, Self::V6];

    /// For names of rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Mapped => "IPv4-mapped",
        }
    }

    /// The socket's.
    pub fn domain(self) -> Domain {
        if self == Self::V4 { Domain::IPV4 } else { Domain::IPV6 }
    }

    /// Whether the packets are IPv6's.
    pub fn is_v6(self) -> bool {
        self == Self::V6
    }

    /// A pod's address, as it is dialled.
    pub fn of(self, pod: &Pod, port: u16) -> SocketAddr {
        self.either(pod.v4(), pod.v6(), port)
    }

    /// One of two addresses, as it is dialled.
    pub fn either(self, v4: Ipv4Addr, v6: Ipv6Addr, port: u16) -> SocketAddr {
        let ip: IpAddr = match self {
            Self::V4 => v4.into(),
            Self::V6 => v6.into(),
            Self::Mapped => v4.to_ipv6_mapped().into(),
        };
        SocketAddr::new(ip, port)
    }

    /// 127.0.0.1 or ::1.
    pub fn loopback(self, port: u16) -> SocketAddr {
        self.either(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, port)
    }

    /// 0.0.0.0 or ::.
    pub fn unspecified(self, port: u16) -> SocketAddr {
        self.either(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, port)
    }
}

/// As the hooks know it.
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// As people know it: a mapped address is an IPv4 one.
pub fn ip(addr: Addr) -> IpAddr {
    IpAddr::from(addr.octets()).to_canonical()
}

/// The same without the difference between IPv4 and IPv4-mapped.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
