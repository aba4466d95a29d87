//! The usual cast: a client and a server in the mesh, and one of each outside of it.
//!
//! ```text
//!  node a                         node b
//!  shop/client   (captured) ────▶ shop/server (captured)     tunnel
//!  shop/client   (captured) ────▶ yard/store                 plaintext out
//!  yard/stranger            ────▶ shop/server (captured)     plaintext in
//!  yard/stranger            ────▶ yard/store                 no mesh at all
//! ```

use std::sync::Arc;

use anyhow::Result;
use lab::{Lab, Pod, Service};

/// The four pods.
#[derive(Debug)]
pub struct Cast {
    /// In the mesh, on node a.
    pub client: Arc<Pod>,
    /// In the mesh, on node b; label `app=server`.
    pub server: Arc<Pod>,
    /// Outside the mesh, on node a.
    pub stranger: Arc<Pod>,
    /// Outside the mesh, on node b; label `app=store`.
    pub store: Arc<Pod>,
}

/// Who talks to whom, and how the mesh carries it.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// For the row's name.
    pub name: &'static str,
    /// Who dials.
    pub from: &'a Pod,
    /// Who is dialled.
    pub to: &'a Pod,
    /// Whether the mesh hands the server the client's own port.
    pub port_kept: bool,
}

impl Cast {
    /// Starts them in a lab with the nodes a and b, and waits until all is settled.
    pub fn start(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |key: &str, node: &str| {
            let name = key.rsplit('/').next().unwrap_or(key);
            lab.pod(key).node(node).service_account(name).label("app", name).start()
        };
        let cast = Self {
            client: pod("shop/client", "a")?,
            server: pod("shop/server", "b")?,
            stranger: pod("yard/stranger", "a")?,
            store: pod("yard/store", "b")?,
        };
        lab.await_captured(&cast.client)?;
        lab.await_captured(&cast.server)?;
        lab.await_excluded(&cast.stranger)?;
        lab.await_excluded(&cast.store)?;
        lab.await_peers_tunnel(&cast.server)?;
        // The other agents must know who is outside, too.
        lab.await_peers_see(&cast.store, "none")?;
        Ok(cast)
    }

    /// Every way that the mesh carries.
    pub fn ways(&self) -> [Way<'_>; 3] {
        [
            Way { name: "tunnel", from: &self.client, to: &self.server, port_kept: true },
            Way { name: "plaintext in", from: &self.stranger, to: &self.server, port_kept: true },
            // The agent dials from a port of its own.
            Way { name: "plaintext out", from: &self.client, to: &self.store, port_kept: false },
        ]
    }

    /// A Service with these ports for `shop/server`, known to every agent.
    pub fn service(&self, lab: &Lab, name: &str, ports: &[(u16, u16)]) -> Result<Service> {
        service(lab, &self.server, name, ports)
    }
}

/// A Service with these ports for the pods with this pod's label `app`, known to every agent, with an endpoint.
pub fn service(lab: &Lab, pod: &Pod, name: &str, ports: &[(u16, u16)]) -> Result<Service> {
    let builder = lab.service(&format!("{}/{name}", pod.namespace())).select("app", pod.name());
    let service =
        ports.iter().fold(builder, |builder, (port, target)| builder.port(*port, *target)).create()?;
    service.await_endpoints(lab, 2)?;
    Ok(service)
}
