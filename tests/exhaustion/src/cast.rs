//! A client and a server in the mesh, each on a node of its own, and somebody outside of it.

use std::sync::Arc;

use anyhow::Result;
use lab::programs::{self, Server};
use lab::{Lab, Pod};

/// Where every server listens.
pub const PORT: u16 = 7000;

/// The pods.
#[derive(Debug)]
pub struct Cast {
    /// In the mesh, on node a.
    pub client: Arc<Pod>,
    /// In the mesh, on node b; an echo server listens at [`PORT`].
    pub server: Arc<Pod>,
    /// Outside the mesh, on node a.
    pub stranger: Arc<Pod>,
    _echo: Server,
}

impl Cast {
    /// Starts them in a lab with the nodes a and b, and waits until all is settled.
    pub fn start(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let (server, echo) = server(lab, "shop/server")?;
        let stranger = lab.pod("yard/stranger").node("a").start()?;
        lab.await_captured(&client)?;
        lab.await_excluded(&stranger)?;
        Ok(Self { client, server, stranger, _echo: echo })
    }
}

/// A pod of the mesh on node b with an echo server for any number of connections, known to the other node as such.
pub fn server(lab: &Lab, key: &str) -> Result<(Arc<Pod>, Server)> {
    let pod = lab.pod(key).node("b").service_account("server").start()?;
    let echo = programs::peer(&pod, "echo-many", PORT, &[])?;
    lab.await_captured(&pod)?;
    lab.await_peers_tunnel(&pod)?;
    Ok((pod, echo))
}
