//! A door from the machine into a node: a port of the machine's own loopback that leads to a port in the node's namespace.
//!
//! ```text
//! browser ─▶ 127.0.0.1:9090 of the machine ─ weft-lab doorway ─▶ 127.0.0.1:9090 of the node ─▶ Prometheus
//! ```
//!
//! A process of its own in the lab's cgroup: it outlives a demo that is kept, and goes with the lab. It is the one thing
//! of a lab in the machine's own network namespace, so it listens on loopback alone.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::lab::Lab;
use crate::process::{Command, Process, Site};
use crate::prometheus::inside;
use crate::{binaries, eventually};

/// The port that people expect a Prometheus at; any other if it is taken.
const PORT: u16 = 9090;
/// More at once than any browser opens.
const MOST: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(10);

/// A door that is open.
#[derive(Debug)]
pub(super) struct Doorway {
    _process: Process,
    /// Where it is, on the machine.
    pub(super) address: SocketAddr,
}

impl Doorway {
    /// Opens one to an address of a node.
    pub(super) fn open(lab: &Lab, node: &str, to: SocketAddr) -> Result<Self> {
        let site = Site {
            cgroup: Some(Cgroup::create(lab.place().cgroup()?.join("doorway"))?),
            netns: None,
            name: "doorway".into(),
            logs: lab.place().logs(),
            enter: "it is in the machine's own network namespace".into(),
        };
        let (program, netns) = (binaries::binary("weft-lab")?, lab.node(node).netns_path());
        let words = [program.into(), "doorway".into(), netns.into_os_string(), to.to_string().into()];
        let mut process = Command::new(site, words).spawn()?;
        let address = eventually(START, || {
            let said = process.stdout_so_far();
            match said.lines().next().map(str::parse) {
                Some(Ok(address)) => Ok(Some(address)),
                _ if process.is_running() => Err(format!("it says {said:?}")),
                _ => Ok(None),
            }
        })?;
        let address = address.with_context(|| process.failure_report())?;
        Ok(Self { _process: process, address })
    }

    /// What to open in a browser.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// `weft-lab doorway`: says its address on a line of its own, then lets in whoever comes.
pub fn serve(netns: &Path, to: SocketAddr) -> Result<Infallible> {
    let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listen(PORT).or_else(|_| listen(0)).context("listen on the machine's loopback")?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?)?;
    out.flush()?;
    let guests = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((near, _)) = listener.accept() else {
            // No descriptor is left, say: some guest will go.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let guest = Guest::count(&guests);
        if guest.number > MOST {
            continue;
        }
        let netns = netns.to_owned();
        thread::spawn(move || {
            let _guest = guest;
            // Nobody there: the caller sees its connection end.
            let far = inside(Some(&netns), || TcpStream::connect_timeout(&to, TIMEOUT));
            if let Ok(Ok(far)) = far {
                relay(&near, &far);
            }
        });
    }
}

/// Somebody who has been let in.
struct Guest {
    all: Arc<AtomicUsize>,
    /// How many there are with this one.
    number: usize,
}

impl Guest {
    fn count(all: &Arc<AtomicUsize>) -> Self {
        Self { all: all.clone(), number: all.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Copies both ways until both have ended.
fn relay(near: &TcpStream, far: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        // However it ends, the other side is to know.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(far, near));
        copy(near, far);
    });
}

#[cfg(test)]
mod tests;
