//! A client that chooses its own port, again and again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Agent, Pod};
use nix::sys::socket::{Shutdown, SockaddrStorage, connect, setsockopt, shutdown, sockopt};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(5);

/// A connection from a port that was asked for.
#[derive(Debug)]
pub struct Bound {
    stream: TcpStream,
}

impl Bound {
    /// Dials from one of the pod's own addresses and a port. The lab opens listeners at a port and no clients, so this is one
    /// that has stopped to listen: it keeps its port, and the pod's cgroup and namespace. A port that is taken is waited for: a
    /// process that was begun beside may hold what was closed here for a moment.
    pub fn dial(pod: &Pod, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let dialled = lab::eventually(PATIENCE, || match Self::try_dial(pod, from, to) {
            Err(error) if is_taken(&error) => Err(format!("{error:#}")),
            other => Ok(other),
        });
        dialled?
    }

    fn try_dial(pod: &Pod, from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let listener = pod.listen(from)?.with_context(|| format!("bind {from}"))?;
        shutdown(listener.as_raw_fd(), Shutdown::Both)?;
        let stream = TcpStream::from(OwnedFd::from(listener));
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        connect(stream.as_raw_fd(), &SockaddrStorage::from(to))
            .map_err(io::Error::from)
            .with_context(|| format!("connect from {from} to {to}"))?;
        let own = stream.local_addr()?;
        ensure!(own == from, "it is from {own}");
        Ok(Self { stream })
    }

    /// A word there and back.
    pub fn speak(&mut self) -> Result<()> {
        self.stream.write_all(b"word")?;
        let mut word = [0; 4];
        self.stream.read_exact(&mut word)?;
        ensure!(word == *b"word", "it echoes {word:?}");
        Ok(())
    }

    /// Ends it: `last`: once the server has ended it, so that it is the server whose kernel waits for stragglers; else with a
    /// reset, so that no end waits for anything.
    pub fn end(mut self, last: bool) -> Result<()> {
        if !last {
            return reset(self.stream);
        }
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "it says {rest:?}");
        Ok(())
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable))
}

/// Ends a connection with a reset.
pub fn reset(stream: TcpStream) -> Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(&stream, sockopt::Linger, &at_once)?)
}

/// The rows of an agent's table about a client's address and port.
pub fn rows(agent: &Agent, from: SocketAddr) -> Result<Vec<Value>> {
    let from = from.to_string();
    let rows = agent.connections()?.into_iter();
    Ok(rows.filter(|row| row["src"]["addr"] == from.as_str()).collect())
}
