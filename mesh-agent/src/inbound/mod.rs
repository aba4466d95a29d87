//! A captured pod is dialled: who by, may they, and the bytes.
//!
//! ```text
//! accepted at 15008 ─▶ a place ─▶ mutual TLS ─▶ CONNECT ─▶ authorize ─▶ deliver ─▶ relay
//! accepted at 15006 ─▶ own address? ─▶ authorize ─▶ deliver ─▶ relay
//! ```
//!
//! The application is reached at the very address that was dialled, from a source on the node
//! itself (`socket::deliver`), and sees the client's address. The
//! client's address is the tunnel's own (the peer agent dials from its pod's namespace), only the port is taken from its
//! word.

mod authorize;
mod handshakes;
mod hbone;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_identity::Keyring;
use mesh_model::{Identity, Reason, World};
use mesh_telemetry::api::{ConnectionPath, Direction, Security};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::connections::{About, Connections, End, Open, carry};
use crate::kernel::maps::Maps;
use crate::metrics::Metrics;
use crate::pods::{Local, Pod};
use crate::{direct, relay, socket};

use authorize::Refused;
pub use handshakes::Handshakes;

/// The inbound half of the data path.
pub struct Inbound {
    /// What the controller last said.
    pub world: Arc<ArcSwap<World>>,
    /// Certificates of this node's pods.
    pub keyring: Keyring,
    /// The live table.
    pub connections: Arc<Connections>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// Handshakes.
    pub metrics: Metrics,
    /// How HBONE is served.
    pub config: mesh_hbone::ServerConfig,
    /// TLS handshakes in progress.
    pub handshakes: Handshakes,
    /// This node's captured pods.
    pub local: watch::Receiver<Arc<Local>>,
}

impl Inbound {
    /// Carries one plaintext connection from outside the mesh.
    pub async fn plaintext(self: Arc<Self>, pod: Arc<Pod>, peer: TcpStream, client: SocketAddr) {
        let Ok(target) = peer.local_addr() else { return socket::reset(peer) };
        let target = SocketAddr::new(target.ip().to_canonical(), target.port());
        let mut about = self.about(&pod, client, target, None);
        self.vouch(&mut about);
        let admitted = authorize::destination(&pod, target).and_then(|()| self.admit(&pod, &about));
        if let Err(Refused { reason, detail }) = admitted {
            self.connections.refuse(&about, reason, &detail);
            return socket::reset(peer);
        }
        match socket::deliver(&pod.netns, &self.maps, target, client).await {
            Ok((app, _claim)) => {
                let open = self.connections.open(about);
                self.look_again(&pod, &open);
                carry(open, async |meter| relay::relay_plain(app, peer, meter).await).await;
            }
            Err(error) => {
                self.connections.refuse(&about, delivery_reason(&error), &error);
                socket::reset(peer);
            }
        }
    }

    /// A client of this node that was sent directly, and whom the tables did not settle when it arrived, is who it is all the
    /// same.
    fn vouch(&self, about: &mut About) {
        let (client, target) = (about.source.address, about.destination.address);
        if let Some(cookie) = self.maps.direct().source_of(client, target) {
            about.source = direct::source(&self.world.load(), &self.local.borrow(), cookie, client);
            (about.path, about.security) = (ConnectionPath::Direct, Security::Kernel);
        }
    }

    /// A policy may have changed between the first look at it and its row in the table.
    fn look_again(&self, pod: &Pod, open: &Open) {
        if let Err(Refused { reason, detail }) = self.is_still_admitted(pod, open.about()) {
            open.cut(reason, detail);
        }
    }

    /// Counts a connection that was refused before it was looked at.
    pub fn count_refused(&self, pod: &Pod, client: SocketAddr, target: SocketAddr, reason: Reason) {
        self.connections.count_refused(&self.about(pod, client, target, None), reason);
    }

    fn about(&self, pod: &Pod, client: SocketAddr, target: SocketAddr, identity: Option<Identity>) -> About {
        let security = if identity.is_some() { Security::Mtls } else { Security::Plaintext };
        let workload = self.world.load().workload_at(client.ip().to_canonical()).cloned();
        About {
            direction: Direction::Inbound,
            path: match (&identity, &workload) {
                (Some(_), _) => ConnectionPath::Tunnel,
                (None, Some(_)) => ConnectionPath::Plaintext,
                (None, None) => ConnectionPath::Passthrough,
            },
            security,
            // With an identity, the address alone does not make a workload: both must agree.
            source: End {
                workload: workload
                    .filter(|workload| identity.as_ref().is_none_or(|who| *who == workload.identity)),
                identity,
                address: client,
            },
            destination: End {
                workload: Some(pod.workload.clone()),
                identity: Some(pod.identity().clone()),
                address: target,
            },
            service: None,
        }
    }
}

/// The word for a delivery that failed: here a refusal is the application's.
fn delivery_reason(error: &std::io::Error) -> Reason {
    match socket::connect_reason(error) {
        Reason::ConnectRefused => Reason::AppRefused,
        other => other,
    }
}
