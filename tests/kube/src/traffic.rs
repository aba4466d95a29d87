//! Conversations that go on while something happens: a server in one pod, clients in others, each opening one connection
//! after the other and noting what did not come back as it was sent.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Pod, eventually};

/// How long one step of a conversation may take on a loaded machine.
const STEP: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Traffic that runs until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The clients have ended: the server may.
    over: AtomicBool,
    done: Vec<AtomicU64>,
    failed: Mutex<Vec<String>>,
}

impl Traffic {
    /// An echo server in `server` on `port`, and a client in each pod that dials the address beside it.
    pub fn start(server: &Arc<Pod>, port: u16, clients: &[(&Arc<Pod>, IpAddr, u16)]) -> Result<Self> {
        let listener = server.listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?.context("listen")?;
        let done = clients.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { done, ..Shared::default() });
        let own = shared.clone();
        let mut threads = vec![std::thread::spawn(move || serve(&listener, &own))];
        for (number, (pod, address, port)) in clients.iter().enumerate() {
            let (pod, to, own) = (Arc::clone(pod), SocketAddr::new(*address, *port), shared.clone());
            threads.push(std::thread::spawn(move || {
                while !own.stop.load(Ordering::Relaxed) {
                    match converse(&pod, to) {
                        Ok(()) => drop(own.done[number].fetch_add(1, Ordering::Relaxed)),
                        Err(error) => own.fail(format!("{} to {to}: {error:#}", pod.key())),
                    }
                    // A few hundred a second from each client: enough to be in the middle of everything that happens.
                    std::thread::sleep(Duration::from_millis(3));
                }
            }));
        }
        Ok(Self { shared, threads })
    }

    /// Ends it. Every conversation must have gone well.
    pub fn close(self) -> Result<()> {
        let (done, failed) = self.stop()?;
        ensure!(failed.is_empty(), "{} of {done} failed: {failed:?}", failed.len());
        Ok(())
    }

    /// Waits until every client has had so many more conversations that went well.
    pub fn await_more(&self, count: u64) -> Result<()> {
        let load = |done: &AtomicU64| done.load(Ordering::Relaxed);
        let before: Vec<u64> = self.shared.done.iter().map(load).collect();
        eventually(PATIENCE, || {
            let now: Vec<u64> = self.shared.done.iter().map(load).collect();
            let enough = before.iter().zip(&now).all(|(before, now)| now - before >= count);
            let failed = self.shared.failed();
            let last = failed.last().cloned().unwrap_or_default();
            if enough {
                Ok(())
            } else {
                Err(format!("{before:?}, now {now:?}, {} failed, last: {last}", failed.len()))
            }
        })
    }

    /// What has failed so far.
    pub fn failed(&self) -> Vec<String> {
        self.shared.failed()
    }

    /// Ends it: how many conversations went well, and what failed.
    pub fn stop(mut self) -> Result<(u64, Vec<String>)> {
        self.end();
        let done = self.shared.done.iter().map(|done| done.load(Ordering::Relaxed)).sum();
        Ok((done, self.shared.failed()))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The server comes first in the list and ends last: nobody's last conversation is cut.
        while self.threads.len() > 1 {
            drop(self.threads.pop().map(JoinHandle::join));
        }
        self.shared.over.store(true, Ordering::Relaxed);
        drop(self.threads.pop().map(JoinHandle::join));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn fail(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection: a line there, the same line back, and a clean end.
fn converse(pod: &Pod, to: SocketAddr) -> Result<()> {
    let mut stream = pod.connect(to, STEP)?.context("connect")?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    stream.write_all(b"ping").context("write")?;
    stream.shutdown(std::net::Shutdown::Write).context("shut down")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read")?;
    anyhow::ensure!(answer == b"ping", "the answer was {answer:?}");
    Ok(())
}

/// One conversation from a pod, for what is to be tried once.
pub fn once(pod: &Pod, to: SocketAddr) -> Result<()> {
    converse(pod, to)
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    // Wakes up to see whether it is to stop.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        std::thread::spawn(move || -> std::io::Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(STEP))?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            stream.write_all(&bytes)
        });
    }
}
