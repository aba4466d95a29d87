//! Accepting: what the kernel steered to the agent's listeners in a pod, and where it was going.
//!
//! ```text
//! 15001 ─ original destination (the note of the client's connect) ─▶ outbound
//! 15006 ─ original destination (the accepted socket's own address) ─▶ inbound, plaintext
//! 15008 ─────────────────────────────────────────────────────────▶ inbound, HBONE
//! ```
//!
//! One task a listener, ended when the pod is let go. An accept that fails for want of descriptors waits a moment and
//! goes on: the connections stay in the backlog.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mesh_common::ListenerKey;
use mesh_model::Uid;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;

use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::pods::{Listener, Pod};
use crate::socket;

/// How long a listener rests after a failed accept.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Hands accepted connections to the two halves of the data path. Clones share.
#[derive(Clone)]
pub struct Acceptor {
    runtime: runtime::Handle,
    outbound: Arc<Outbound>,
    inbound: Arc<Inbound>,
}

impl Acceptor {
    /// Serves on the current runtime.
    pub fn new(outbound: Arc<Outbound>, inbound: Arc<Inbound>) -> Self {
        Self { runtime: runtime::Handle::current(), outbound, inbound }
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
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = pod.released.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((stream, from)) => self.hand_over(pod, port, stream, from),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // The socket listens no more: somebody closed it in the kernel. Another one is opened in its place.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                Err(error) => {
                    tracing::warn!(pod = %pod.workload.name, port, %error, "cannot accept; waiting");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    fn hand_over(&self, pod: &Arc<Pod>, port: u32, stream: TcpStream, from: std::net::SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            // The peer has gone meanwhile.
            tracing::debug!(%error, "an accepted connection was dead");
            return socket::reset(stream);
        }
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
