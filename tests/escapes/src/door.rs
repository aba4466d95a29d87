//! A listener in a pod, in the hands of the test: who comes, and what they say first.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Agent, Pod, eventually};
use serde_json::Value;

/// How long a guest may take, and each thing it does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The listener.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    /// Whose it is.
    pub pod: Arc<Pod>,
    /// Where, on all its addresses.
    pub port: u16,
}

/// A connection that came.
#[derive(Debug)]
pub struct Guest {
    stream: TcpStream,
    /// Whom the application takes it for.
    pub from: SocketAddr,
    /// Where it came to.
    pub to: SocketAddr,
}

impl Door {
    /// Listens on all addresses of both families.
    pub fn open(pod: &Arc<Pod>, port: u16) -> Result<Self> {
        Self::open_at(pod, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// Listens at one address.
    pub fn open_at(pod: &Arc<Pod>, at: SocketAddr) -> Result<Self> {
        let listener = pod.listen(at)?.with_context(|| format!("{} listens at {at}", pod.key()))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, pod: pod.clone(), port: at.port() })
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4().into(), self.port)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v6().into(), self.port)
    }

    /// Waits for a guest.
    pub fn guest(&self) -> Result<Guest> {
        self.guest_within(PATIENCE)
    }

    /// Waits so long for a guest.
    pub fn guest_within(&self, deadline: Duration) -> Result<Guest> {
        let (stream, from) =
            eventually(deadline, || self.listener.accept().map_err(|error| error.to_string()))
                .context("nobody came")?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let to = canonical(stream.local_addr()?);
        Ok(Guest { stream, from: canonical(from), to })
    }

    /// Waits for the guest whose first line this is. Others are late ones, of attempts that were cut off and given up since.
    pub fn guest_saying(&self, said: &str, deadline: Duration) -> Result<Guest> {
        let start = Instant::now();
        loop {
            let guest = self.guest_within(deadline.saturating_sub(start.elapsed()))?;
            if guest.line().is_ok_and(|line| line == said) {
                return Ok(guest);
            }
        }
    }

    /// Fails if somebody is waiting. To be asked when whoever might have come has ended.
    pub fn nobody(&self) -> Result<()> {
        match self.listener.accept() {
            Ok((_, from)) => anyhow::bail!("{from} came to port {} of {}", self.port, self.pod.key()),
            Err(error) => {
                ensure!(error.kind() == std::io::ErrorKind::WouldBlock, "accept: {error}");
                Ok(())
            }
        }
    }
}

impl Guest {
    /// The first line that it says.
    pub fn line(&self) -> Result<String> {
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).context("read what the guest says")?;
        Ok(line.trim_end().to_owned())
    }

    /// The first bytes that it says.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = vec![0; 4096];
        let count = (&self.stream).read(&mut bytes).context("read what the guest says")?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Answers a line.
    pub fn answer(&self, words: &str) -> Result<()> {
        writeln!(&self.stream, "{words}").context("answer")
    }

    /// Its row in the table of the agent that serves this end.
    pub fn row(&self, agent: &Agent) -> Result<Value> {
        let (from, to) = (self.from.to_string(), self.to.to_string());
        eventually(PATIENCE, || {
            let rows = agent.connections().map_err(|error| format!("{error:#}"))?;
            let mine = |row: &&Value| {
                row["direction"] == "inbound"
                    && row["src"]["addr"] == from.as_str()
                    && row["dst"]["addr"] == to.as_str()
            };
            rows.iter().find(mine).cloned().ok_or_else(|| Value::from(rows.clone()).to_string())
        })
        .with_context(|| format!("look for {from} to {to} in the table of the agent on {}", agent.node()))
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
