//! Who is in the play.
//!
//! ```text
//!  node a                                                  node b
//!  shop/client  shop/cart  bank/till  yard/stranger         shop/server
//!  shop/near                                                  ▲
//!     ▲── same node ── client, cart, till, stranger ── tunnel or plaintext ──┘
//! ```
//!
//! `shop` and `bank` are in the mesh, `yard` is not. Every pod has a service account of its own name and a label `app` likewise.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use lab::programs::{self, Server};
use lab::{Lab, Pod};

/// The two ports at which both servers answer.
pub const PORTS: [u16; 2] = [8080, 9090];

/// The pods.
#[derive(Debug)]
pub struct Cast {
    /// Of `shop`, on node a.
    pub client: Arc<Pod>,
    /// Of `shop`, on node a.
    pub cart: Arc<Pod>,
    /// Of `bank`, on node a.
    pub till: Arc<Pod>,
    /// Outside the mesh, on node a.
    pub stranger: Arc<Pod>,
    /// Serves, on the clients' node.
    pub near: Arc<Pod>,
    /// Serves, on node b.
    pub server: Arc<Pod>,
    /// They echo.
    pub echoes: Vec<Server>,
}

impl Cast {
    /// Starts them in a lab with the nodes a and b, and waits until all is settled.
    pub fn start(lab: &Lab) -> Result<Self> {
        lab.namespace("shop").captured()?;
        lab.namespace("bank").captured()?;
        let pod = |key: &str, node: &str| {
            let name = key.rsplit('/').next().unwrap_or(key);
            lab.pod(key).node(node).service_account(name).label("app", name).start()
        };
        let mut cast = Self {
            client: pod("shop/client", "a")?,
            cart: pod("shop/cart", "a")?,
            till: pod("bank/till", "a")?,
            stranger: pod("yard/stranger", "a")?,
            near: pod("shop/near", "a")?,
            server: pod("shop/server", "b")?,
            echoes: Vec::new(),
        };
        for pod in [&cast.client, &cast.cart, &cast.till, &cast.near, &cast.server] {
            lab.await_captured(pod)?;
        }
        lab.await_excluded(&cast.stranger)?;
        for pod in [&cast.near, &cast.server] {
            lab.await_peers_tunnel(pod)?;
            for port in PORTS {
                cast.echoes.push(programs::peer(pod, "echo", port, &[])?);
            }
        }
        Ok(cast)
    }

    /// Who dials, by name.
    pub fn source(&self, name: &str) -> &Pod {
        match name {
            "client" => &self.client,
            "cart" => &self.cart,
            "till" => &self.till,
            _ => &self.stranger,
        }
    }

    /// Who is dialled: on the same node, or on the other.
    pub fn destinations(&self) -> [(&'static str, &Pod); 2] {
        [("same node", &self.near), ("other node", &self.server)]
    }
}

/// An address and port of a pod.
pub fn at(pod: &Pod, ipv6: bool, port: u16) -> SocketAddr {
    let address: IpAddr = if ipv6 { pod.v6().into() } else { pod.v4().into() };
    SocketAddr::new(address, port)
}
