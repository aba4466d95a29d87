//! A connection that stays open, and a server that says whether anybody came.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Agent, Pod};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(5);

/// A conversation with a server that echoes.
#[derive(Debug)]
pub struct Open {
    stream: TcpStream,
    /// The client's end.
    pub from: SocketAddr,
}

impl Open {
    /// Opens it, and hears the first word.
    pub fn new(pod: &Pod, to: SocketAddr) -> Result<Self> {
        let stream = pod.connect(to, PATIENCE)?.with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let from = stream.local_addr()?;
        let mut open = Self { stream, from: SocketAddr::new(from.ip().to_canonical(), from.port()) };
        open.speak()?;
        Ok(open)
    }

    /// A word there and back.
    pub fn speak(&mut self) -> Result<()> {
        self.stream.write_all(b"word")?;
        let mut word = [0; 4];
        self.stream.read_exact(&mut word)?;
        ensure!(word == *b"word", "it echoes {word:?}");
        Ok(())
    }

    /// How long until it is reset. Whatever else ends it is an error.
    pub fn await_reset(&mut self) -> Result<Duration> {
        let start = Instant::now();
        match self.stream.read(&mut [0]) {
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) =>
            {
                Ok(start.elapsed())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("it is open after {PATIENCE:?}")
            }
            other => bail!("it ends with {other:?}"),
        }
    }

    /// Its row in an agent's table, as a client's.
    pub fn row(&self, agent: &Agent) -> Result<Option<Value>> {
        let from = self.from.to_string();
        let rows = agent.connections()?;
        Ok(rows.into_iter().find(|row| row["direction"] == "outbound" && row["src"]["addr"] == from.as_str()))
    }
}

/// A listener in a pod that answers nobody.
#[derive(Debug)]
pub struct Quiet {
    listener: TcpListener,
}

impl Quiet {
    /// On a port of its own, for both families.
    pub fn open(pod: &Pod, port: u16) -> Result<Self> {
        let listener = pod.listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?.context("listen")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Connections that have been accepted since the last look.
    pub fn accepted(&self) -> Result<usize> {
        let mut count = 0;
        loop {
            match self.listener.accept() {
                Ok(_) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
