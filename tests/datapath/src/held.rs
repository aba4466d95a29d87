//! A connection from a pod to an echo server that a test holds open, and its row in an agent's table.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Agent, Pod, eventually};
use serde_json::Value;

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a row may take to appear: the agent makes it before it relays the first byte.
const ROW: Duration = Duration::from_secs(2);

/// An open connection whose other end sends back what it gets.
#[derive(Debug)]
pub struct Held {
    stream: TcpStream,
    said: u32,
    /// The client's end.
    pub client: SocketAddr,
}

impl Held {
    /// Dials from the pod, and speaks once.
    pub fn open(pod: &Pod, to: SocketAddr) -> Result<Self> {
        let what = || format!("{} to {to}", pod.key());
        let stream = pod.connect(to, PATIENCE)?.with_context(what)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = stream.local_addr()?;
        let mut held = Self { stream, said: 0, client };
        held.speak().with_context(what)?;
        Ok(held)
    }

    /// Says something new and hears it back.
    pub fn speak(&mut self) -> Result<()> {
        self.said += 1;
        let line = format!("said {}\n", self.said);
        let mut heard = vec![0; line.len()];
        self.stream.write_all(line.as_bytes()).with_context(|| format!("write number {}", self.said))?;
        self.stream.read_exact(&mut heard).with_context(|| format!("read number {}", self.said))?;
        ensure!(heard == line.as_bytes(), "said {line:?}, heard {:?}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Its row in an agent's table, if it has one.
    pub fn row(&self, agent: &Agent) -> Result<Option<Value>> {
        let client = self.client.to_string();
        Ok(agent.connections()?.into_iter().find(|row| row["src"]["addr"] == client.as_str()))
    }

    /// Fails unless the agent carries it through a tunnel under mutual TLS.
    pub fn ensure_mtls(&self, agent: &Agent) -> Result<()> {
        let row = self.await_row(agent)?;
        ensure!(row["security"] == "mtls" && row["path"] == "tunnel", "{row}");
        Ok(())
    }

    /// Waits for the agent's row of it: let through by the kernel, between two pods of the node, both with an identity.
    pub fn ensure_direct(&self, agent: &Agent) -> Result<()> {
        let row = self.await_row(agent)?;
        ensure!(row["security"] == "kernel" && row["path"] == "direct", "{row}");
        ensure!(row["src"]["identity"].is_string() && row["dst"]["identity"].is_string(), "{row}");
        Ok(())
    }

    fn await_row(&self, agent: &Agent) -> Result<Value> {
        eventually(ROW, || {
            let row = self.row(agent).map_err(|error| format!("{error:#}"))?;
            row.ok_or_else(|| {
                let others = agent.connections().unwrap_or_default();
                format!("the agent on {} has no row for {}: {others:?}", agent.node(), self.client)
            })
        })
    }

    /// Fails if the agent has anything to do with it.
    pub fn ensure_untouched(&self, agent: &Agent) -> Result<()> {
        let row = self.row(agent)?;
        ensure!(row.is_none(), "the agent on {} carries {}", agent.node(), row.unwrap_or_default());
        Ok(())
    }
}
