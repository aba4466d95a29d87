//! The way from a pod to the API server: the server listens on loopback of the test's own network namespace, so in the
//! pod's one there is a listener at the same address and port, whose bytes go through the test process.
//!
//! Cutting it is a network that fails between one pod and the API server, which runs on for everybody else.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{self, TcpStream};
use tokio::sync::watch;

use crate::RUNTIME;
use lab::Pod;

/// One pod's way to the API server.
#[derive(Debug)]
pub(crate) struct Reach {
    open: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Reach {
    /// Opens the way for a pod.
    pub(crate) fn new(pod: &Pod, port: u16) -> Result<Self> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener =
            pod.netns_thread(|| TcpListener::bind(at))?.context("listen for the API server's sake")?;
        listener.set_nonblocking(true)?;
        let (open, is_open) = watch::channel(true);
        let _guard = RUNTIME.enter();
        let listener = net::TcpListener::from_std(listener)?;
        let accepting = RUNTIME.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, at, is_open.clone()));
            }
        });
        Ok(Self { open, accepting })
    }

    /// Cuts the way, connections that are there too, or opens it again.
    pub(crate) fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(false);
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    if !*open.borrow() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(to).await else { return };
    tokio::select! {
        // Either end may go; whoever asked notices.
        _ended = copy_bidirectional(&mut near, &mut far) => {}
        _cut = open.wait_for(|open| !open) => {}
    }
}
