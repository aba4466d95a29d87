//! A captured pod dials: where to, which way, and the bytes.
//!
//! ```text
//! accepted from a capture port ─▶ original destination ─▶ route (mesh_model::route) ─┬─ tunnel ─▶ dial ─▶ relay
//!                                                                                      ├─ passthrough ─▶ connect ─▶ relay
//!                                                                                      └─ refuse ─▶ RST
//! ```
//!
//! Invariants: no note, no world, no certificate: refused. What goes to a workload that was reported captured goes through
//! a tunnel or not at all. Whatever fails before the first byte is a RST to the application, never a clean end.

mod dial;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use arc_swap::ArcSwap;
use mesh_hbone::{ConnectRequest, Pool};
use mesh_identity::Keyring;
use mesh_model::policy::Peer;
use mesh_model::route::{Balancer, Client, Hop, Route, route, route_to};
use mesh_model::{Reason, Uid, Workload, World};
use mesh_telemetry::api::{ConnectionPath, Direction, Security};
use tokio::net::TcpStream;

use crate::connections::{About, Connections, End, carry};
use crate::kernel::maps::{Dialled, Maps};
use crate::metrics::Metrics;
use crate::pods::Pod;
use crate::{pace, relay, socket};
use dial::ToAgent;

/// A tunnel's pool: from which pod to which workload. By address, because the destination takes the client's address from
/// the tunnel's own, which is of the same family; and because a pod whose sandbox started over is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    source: Uid,
    destination: Uid,
    address: IpAddr,
}

impl PoolKey {
    /// The pod in whose namespace the tunnel begins.
    pub fn source(&self) -> &Uid {
        &self.source
    }

    /// The workload that the tunnel leads to.
    pub fn destination(&self) -> &Uid {
        &self.destination
    }

    /// Where the workload was when the tunnel was made.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// The outbound half of the data path.
pub struct Outbound {
    /// What the controller last said.
    pub world: Arc<ArcSwap<World>>,
    /// Chooses among a Service's endpoints.
    pub balancer: Box<dyn Balancer>,
    /// Tunnels to other agents.
    pub pool: Pool<PoolKey>,
    /// Certificates of this node's pods.
    pub keyring: Keyring,
    /// The live table.
    pub connections: Arc<Connections>,
    /// The kernel's maps.
    pub maps: Arc<Maps>,
    /// Handshakes.
    pub metrics: Metrics,
}

impl Outbound {
    /// Carries one connection from accept to end.
    pub async fn handle(self: Arc<Self>, pod: Arc<Pod>, app: TcpStream, client: SocketAddr) {
        let began = Instant::now();
        // A client that speaks first does so now, and its words go out with the CONNECT.
        pace::breath().await;
        let Some(dialled) = self.maps.original_destination(&app, client, pod.netns.cookie()) else {
            let about = about(&pod, client, client, None, Security::Plaintext);
            self.connections.refuse(&about, Reason::NoOriginalDst, &"no note of what was dialled");
            return socket::reset(app);
        };
        let Dialled { address: dialled, target } = dialled;
        let world = self.world.load_full();
        let decision = match target {
            Some(target) => route_to(&world, dialled, target),
            None => route(&world, Client { address: client.ip() }, dialled, &*self.balancer),
        };
        match decision {
            Route::Tunnel(hop) => self.tunnel(pod, app, client, hop, began).await,
            Route::Passthrough(hop) => self.passthrough(pod, app, client, hop, began).await,
            Route::Refuse(reason) => {
                let about = about(&pod, client, dialled, None, Security::Plaintext);
                self.connections.refuse(&about, reason, &format_args!("dialled {dialled}"));
                socket::reset(app);
            }
        }
    }

    /// Counts a connection that was refused before it was looked at.
    pub fn count_refused(&self, pod: &Pod, client: SocketAddr, reason: Reason) {
        self.connections.count_refused(&about(pod, client, client, None, Security::Plaintext), reason);
    }

    async fn tunnel(&self, pod: Arc<Pod>, app: TcpStream, client: SocketAddr, hop: Hop, began: Instant) {
        let about = about(&pod, client, hop.target, Some(&hop), Security::Mtls);
        let Some(peer) = &hop.workload else {
            self.connections.refuse(&about, Reason::PeerRefused, &"a tunnel leads to no workload");
            return socket::reset(app);
        };
        if peer.uid == pod.workload.uid {
            return self.to_itself(pod, app, client, hop, began).await;
        }
        if let Err((reason, detail)) = self.is_admitted(&pod, peer, &about) {
            self.connections.refuse(&about, reason, &detail);
            return socket::reset(app);
        }
        let key = PoolKey {
            source: pod.workload.uid.clone(),
            destination: peer.uid.clone(),
            address: hop.target.ip(),
        };
        let dial = ToAgent {
            pod: &pod,
            agent: SocketAddr::new(hop.target.ip(), mesh_hbone::PORT),
            expected: &peer.identity,
            keyring: &self.keyring,
            metrics: &self.metrics,
            dialled: AtomicBool::new(false),
        };
        let request = ConnectRequest {
            authority: hop.target,
            client,
            baggage: Some(baggage(&pod.workload)),
            traceparent: None,
        };
        let opened = self.pool.open(&key, &dial, request).await;
        // Most tunnels share a connection that is there already; only who made one counts its handshake.
        if dial.dialled.into_inner() {
            self.metrics.handshake("client", opened.as_ref().map_or_else(|e| e.reason().as_str(), |_| "ok"));
        }
        match opened {
            Ok(tunnel) => {
                let open = self.connections.open_since(about, began);
                carry(open, async |meter| relay::relay(app, tunnel, meter).await).await;
            }
            Err(error) => {
                self.connections.refuse(&about, error.reason(), &Chain(&error));
                socket::reset(app);
            }
        }
    }

    /// What this node knows of policies is said here, before the peer is asked. The peer's agent judges all the same.
    fn is_admitted(&self, pod: &Pod, peer: &Workload, about: &About) -> Result<(), (Reason, String)> {
        let world = self.world.load();
        let source =
            Peer { identity: Some(pod.identity()), address: about.source.address.ip().to_canonical() };
        let verdict = world.judge(peer, source, about.destination.address.port()).verdict;
        verdict.reason().map_or(Ok(()), |reason| Err((reason, verdict.to_string())))
    }

    /// A pod that dials its own Service needs no tunnel: the agent delivers.
    async fn to_itself(&self, pod: Arc<Pod>, app: TcpStream, client: SocketAddr, hop: Hop, began: Instant) {
        let mut about = about(&pod, client, hop.target, Some(&hop), Security::Kernel);
        about.path = ConnectionPath::Direct;
        let delivered = socket::deliver(&pod.netns, &self.maps, hop.target, client).await;
        let (delivered, _claim) = match delivered {
            Ok((stream, claim)) => (Ok(stream), Some(claim)),
            Err(error) => (Err(error), None),
        };
        self.carry(about, app, delivered, began).await;
    }

    async fn passthrough(&self, pod: Arc<Pod>, app: TcpStream, client: SocketAddr, hop: Hop, began: Instant) {
        let mut about = about(&pod, client, hop.target, Some(&hop), Security::Plaintext);
        about.path =
            if hop.workload.is_some() { ConnectionPath::Plaintext } else { ConnectionPath::Passthrough };
        let connected = socket::connect(&pod.netns, pod.address_like(hop.target.ip()), hop.target).await;
        self.carry(about, app, connected, began).await;
    }

    async fn carry(&self, about: About, app: TcpStream, far: std::io::Result<TcpStream>, began: Instant) {
        match far {
            Ok(far) => {
                let open = self.connections.open_since(about, began);
                carry(open, async |meter| relay::relay_plain(app, far, meter).await).await;
            }
            Err(error) => {
                self.connections.refuse(&about, socket::connect_reason(&error), &error);
                socket::reset(app);
            }
        }
    }
}

fn about(pod: &Pod, client: SocketAddr, target: SocketAddr, hop: Option<&Hop>, security: Security) -> About {
    let peer = hop.and_then(|hop| hop.workload.clone());
    // Only a tunnel shows who the peer is.
    let identity =
        peer.as_ref().filter(|_| security != Security::Plaintext).map(|peer| peer.identity.clone());
    About {
        direction: Direction::Outbound,
        path: if security == Security::Mtls { ConnectionPath::Tunnel } else { ConnectionPath::Passthrough },
        security,
        source: End {
            workload: Some(pod.workload.clone()),
            identity: Some(pod.identity().clone()),
            address: client,
        },
        destination: End { workload: peer, identity, address: target },
        service: hop.and_then(|hop| hop.service.clone()),
    }
}

/// Who the source is, with the keys that ztunnel sends. Informational: the certificate is what counts. One
/// `k8s.KIND.name` and no more: to a ztunnel they are all the workload's name, and the last one stands.
fn baggage(source: &Workload) -> String {
    format!(
        "k8s.namespace.name={},k8s.deployment.name={},service.name={}",
        source.namespace, source.owner, source.owner
    )
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
