//! Who is in the lab: a pod of Weft's on each node, and one beside it that another mesh's agent serves, played by the test.
//!
//! ```text
//!  node a                          node b
//!  shop/client (captured) ────────▶ yard/foreign (annotated)   Weft dials the peer
//!  yard/caller (annotated) ───────▶ shop/server (captured)     the peer dials Weft
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lab::{Lab, Pod, TRUST_DOMAIN};
use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio::runtime::Runtime;

use crate::client::Windows;
use crate::pki::{Authority, Key, Offer};
use crate::server::Serve;
use crate::stream::PATIENCE;
use crate::{Arrival, Client, HBONE, Manner, Server};

/// The four pods, the authority, and what the peer's ends run on.
#[derive(Debug)]
pub struct Cast {
    /// In the mesh, on node a.
    pub client: Arc<Pod>,
    /// In the mesh, on node b.
    pub server: Arc<Pod>,
    /// The foreign client's pod, on node a.
    pub caller: Arc<Pod>,
    /// The foreign server's pod, on node b; label `app=foreign`.
    pub foreign: Arc<Pod>,
    /// Signs what the peer shows.
    pub authority: Authority,
    /// For `block_on`.
    pub runtime: Runtime,
    trust_domain: String,
}

impl Cast {
    /// Starts them in a lab with the nodes a and b, and waits until all is settled.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_in(lab, TRUST_DOMAIN)
    }

    /// The same in a lab with another trust domain.
    pub fn start_in(lab: &Lab, trust_domain: &str) -> Result<Self> {
        lab.namespace("shop").captured()?;
        let pod = |key: &str, node: &str| {
            let name = key.rsplit('/').next().unwrap_or(key);
            lab.pod(key).node(node).service_account(name).label("app", name)
        };
        let foreign = |key, node| pod(key, node).annotation("weft.dev/tunnel", "hbone").start();
        let cast = Self {
            client: pod("shop/client", "a").start()?,
            server: pod("shop/server", "b").start()?,
            caller: foreign("yard/caller", "a")?,
            foreign: foreign("yard/foreign", "b")?,
            authority: Authority::of(lab)?,
            runtime: crate::runtime()?,
            trust_domain: trust_domain.to_owned(),
        };
        lab.await_captured(&cast.client)?;
        lab.await_captured(&cast.server)?;
        lab.await_excluded(&cast.caller)?;
        lab.await_excluded(&cast.foreign)?;
        lab.await_peers_tunnel(&cast.server)?;
        lab.await_peers_see(&cast.foreign, "foreign")?;
        Ok(cast)
    }

    /// The identity that a pod has to have.
    pub fn identity(&self, pod: &Pod) -> String {
        format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, pod.namespace(), pod.service_account())
    }

    /// The foreign client's connection to the captured pod, as ztunnel would make it.
    pub fn call(&self, address: impl Into<IpAddr>) -> Result<Client> {
        self.call_with(address, Windows::default())
    }

    /// The same with other windows.
    pub fn call_with(&self, address: impl Into<IpAddr>, windows: Windows) -> Result<Client> {
        let own = self.authority.issue(&self.identity(&self.caller), Key::P256)?;
        let mut config = own.client(&self.identity(&self.server), &Offer::default())?;
        config.resumption = rustls::client::Resumption::disabled();
        self.call_as(address, Arc::new(config), None, windows)
    }

    /// The same with another configuration, and perhaps a name to ask for.
    pub fn call_as(
        &self,
        address: impl Into<IpAddr>,
        config: Arc<rustls::ClientConfig>,
        name: Option<&'static str>,
        windows: Windows,
    ) -> Result<Client> {
        let to = (address.into(), HBONE).into();
        let tcp = self.caller.connect(to, PATIENCE)?.with_context(|| format!("connect to {to}"))?;
        let name = match name {
            Some(name) => ServerName::try_from(name)?,
            None => ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()),
        };
        let client = self.runtime.block_on(Client::start(tcp, config, name, windows))?;
        ensure!(client.server == self.identity(&self.server), "it is {}", client.server);
        Ok(client)
    }

    /// TLS of the foreign server, as the pod's own identity.
    pub fn tls(&self) -> Result<ServerConfig> {
        self.authority.issue(&self.identity(&self.foreign), Key::P256)?.server(&Offer::default())
    }

    /// Starts the foreign server.
    pub fn host<F>(&self, manner: Manner, serve: F) -> Result<Server>
    where
        F: Fn(Arrival) -> futures_util::future::BoxFuture<'static, ()> + Send + Sync + 'static,
    {
        let serve: Box<Serve> = Box::new(serve);
        Server::start(self.runtime.handle(), &self.foreign, self.tls()?, manner, serve)
    }
}
