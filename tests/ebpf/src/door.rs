//! A listener of the test's: who came to it, and that nobody did.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::Socket;

use crate::family::plain;
use crate::hand::{Hand, readable};

/// What is on its way comes well within this; it is only ever waited out by a row that fails.
const PATIENCE: Duration = Duration::from_secs(2);

/// A listening socket.
#[derive(Debug)]
pub struct Door {
    socket: Socket,
}

/// A connection that came.
#[derive(Debug)]
pub struct Visitor {
    /// The accepted socket.
    pub socket: Socket,
    /// The other end's address as accept(2) told it.
    pub peer: SocketAddr,
    /// The own address.
    pub local: SocketAddr,
}

impl Door {
    /// Opens one at an address, with a socket of the hand's.
    pub fn open(hand: &Hand, at: SocketAddr) -> Result<Self> {
        let socket = hand.open(socket2::Domain::for_address(at), socket2::Type::STREAM, None)??;
        Self::listen(socket, at)
    }

    /// For both families at once: `[::]` and a port.
    pub fn dual(hand: &Hand, port: u16) -> Result<Self> {
        let socket = hand.tcp(crate::Family::V6)?;
        socket.set_only_v6(false)?;
        Self::listen(socket, crate::Family::V6.unspecified(port))
    }

    /// Makes a listener of a socket.
    pub fn listen(socket: Socket, at: SocketAddr) -> Result<Self> {
        socket.set_reuse_address(true)?;
        socket.bind(&at.into()).with_context(|| format!("bind to {at}"))?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }

    /// The listening socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Waits for the next who comes.
    pub fn visitor(&self) -> Result<Visitor> {
        if !readable(&self.socket, PATIENCE) {
            bail!("nobody came to {:?}", address(self.socket.local_addr())?);
        }
        self.try_visitor()?.context("who came is gone again")
    }

    /// Who is there already.
    pub fn try_visitor(&self) -> Result<Option<Visitor>> {
        match self.socket.accept() {
            Ok((socket, peer)) => {
                let (peer, local) = (address(Ok(peer))?, address(socket.local_addr())?);
                Ok(Some(Visitor { socket, peer, local }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("accept"),
        }
    }

    /// An error if somebody has come. What was answered elsewhere or refused by now does not come later.
    pub fn nobody(&self) -> Result<()> {
        match self.try_visitor()? {
            None => Ok(()),
            Some(visitor) => bail!("{} came to {}, which nobody should reach", visitor.peer, visitor.local),
        }
    }
}

/// A socket's address as the standard library has it.
pub fn address(address: io::Result<socket2::SockAddr>) -> Result<SocketAddr> {
    address?.as_socket().context("an address that is no internet address")
}

/// What getpeername(2) says, IPv4-mapped as IPv4.
pub fn peer(socket: &Socket) -> Result<SocketAddr> {
    Ok(plain(address(socket.peer_addr()).context("getpeername")?))
}

/// What getsockname(2) says, IPv4-mapped as IPv4.
pub fn local(socket: &Socket) -> Result<SocketAddr> {
    Ok(plain(address(socket.local_addr()).context("getsockname")?))
}
