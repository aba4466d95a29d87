//! A captured pod that serves, and connections to it through the mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, Pod, eventually, programs};

use crate::held::Held;

/// Where it echoes.
pub const PORT: u16 = 7000;
/// Where it speaks first.
pub const BANNER: u16 = 7001;
const SOON: Duration = Duration::from_secs(10);

/// A captured pod with an echo server and one that speaks first.
#[derive(Debug)]
pub struct Home {
    /// The pod.
    pub pod: Arc<Pod>,
    _servers: [programs::Server; 2],
}

impl Home {
    /// Starts it under a service account of its own, and waits until it and its peers are ready for each other.
    pub fn start(lab: &Lab, name: &str, node: &str) -> Result<Self> {
        let pod = lab.pod(&format!("shop/{name}")).node(node).service_account(name).start()?;
        let _servers =
            [programs::peer(&pod, "echo", PORT, &[])?, programs::peer(&pod, "banner", BANNER, &[])?];
        lab.await_captured(&pod)?;
        lab.await_peers_tunnel(&pod)?;
        Ok(Self { pod, _servers })
    }

    /// One of its ports.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod.v4().into(), port)
    }
}

/// Dials until it works, through a tunnel.
pub fn meshed(lab: &Lab, from: &Pod, to: SocketAddr) -> Result<Held> {
    eventually(SOON, || {
        let held = Held::open(from, to).map_err(|error| format!("{error:#}"))?;
        held.ensure_mtls(lab.agent(from.node().name())).map_err(|error| format!("{error:#}"))?;
        Ok(held)
    })
    .with_context(|| format!("{} to {to}", from.key()))
}
