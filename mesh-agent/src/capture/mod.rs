//! Accepting: what the kernel steered to the agent's listeners in a pod, and where it was going.
//!
//! ```text
//! 15001 ─ (what arrives at a capture port is steered here) original destination (the note of the client's connect) ─▶ outbound
//! 15006 ─ original destination (the accepted socket's own address) ─▶ inbound, plaintext
//! 15008 ─────────────────────────────────────────────────────────▶ inbound, HBONE
//! ```
//!
//! One task a listener, ended when the pod is let go. A task that is woken accepts all that is there, up to tokio's budget
//! of 128 connections; then it is the others' turn.
//!
//! An accept that fails for want of descriptors waits a moment and goes on: the connections stay in the backlog. Those that
//! have waited for a second are refused (`shortage`).

mod shortage;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use mesh_common::ListenerKey;
use mesh_model::{Reason, Uid};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;

use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::pods::{Listener, Pod};
use crate::socket;
use shortage::Shortage;

/// How long a listener rests after a failed accept.
const BACK_OFF: Duration = Duration::from_millis(20);
/// How long connections wait in the backlog for descriptors.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many are refused at a time.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// Hands accepted connections to the two halves of the data path. Clones share.
#[derive(Clone)]
pub struct Acceptor {
    runtime: runtime::Handle,
    outbound: Arc<Outbound>,
    inbound: Arc<Inbound>,
    shortage: Arc<Shortage>,
}

impl Acceptor {
    /// Serves on the current runtime.
    pub fn new(outbound: Arc<Outbound>, inbound: Arc<Inbound>) -> Self {
        let shortage = Arc::new(Shortage::new());
        Self { runtime: runtime::Handle::current(), outbound, inbound, shortage }
    }

    /// Accepts at a pod's listeners until the pod is released.
    pub fn serve(&self, pod: &Arc<Pod>, listeners: Vec<Listener>) {
        for listener in listeners {
            let (acceptor, pod) = (self.clone(), pod.clone());
            self.runtime.spawn(async move {
                let port = listener.port;
                if let Err(error) = acceptor.accept(&pod, listener).await {
                    tracing::error!(pod = %pod.workload.name, port, %error, "a listener of a pod's was lost");
                }
            });
        }
    }

    /// The pod is let go: idle tunnels in its namespace would keep the namespace alive.
    pub fn release(&self, uid: &Uid) {
        self.outbound.pool.evict(|key| key.source() == uid);
    }

    async fn accept(self, pod: &Arc<Pod>, listener: Listener) -> io::Result<()> {
        let port = listener.port;
        let listener = TcpListener::from_std(listener.socket)?;
        // When accepting began to fail.
        let mut failing: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = pod.released.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((stream, from)) => {
                    failing = None;
                    self.hand_over(pod, port, stream, from);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // The socket listens no more: somebody closed it in the kernel. Another one is opened in its place.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(error) => {
                    self.shortage.name(&pod.workload.name, port, &error);
                    let since = *failing.get_or_insert_with(Instant::now);
                    if shortage::of_descriptors(&error) && since.elapsed() >= PATIENCE {
                        self.turn_away(pod, port, &listener);
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// Refuses those who wait, with the descriptor that is kept for this.
    fn turn_away(&self, pod: &Pod, port: u32, listener: &TcpListener) {
        let Some(_lent) = self.shortage.lend() else { return };
        for _ in 0..TURNED_AWAY_AT_ONCE {
            // Nobody waits any more, or somebody else was faster with the descriptor.
            let Some(Ok((stream, from))) = listener.accept().now_or_never() else { return };
            if port == ListenerKey::OUTBOUND {
                self.outbound.count_refused(pod, from, Reason::Exhausted);
            } else {
                let target = stream.local_addr().unwrap_or(from);
                self.inbound.count_refused(pod, from, target, Reason::Exhausted);
            }
            self.shortage.name_turned_away(&pod.workload.name, port);
            socket::reset(stream);
        }
    }

    fn hand_over(&self, pod: &Arc<Pod>, port: u32, stream: TcpStream, from: SocketAddr) {
        let pod = pod.clone();
        match port {
            ListenerKey::OUTBOUND => {
                tokio::spawn(self.outbound.clone().handle(pod, stream, from));
            }
            ListenerKey::HBONE => {
                tokio::spawn(self.inbound.clone().hbone(pod, stream, from));
            }
            _ => {
                tokio::spawn(self.inbound.clone().plaintext(pod, stream, from));
            }
        }
    }
}
