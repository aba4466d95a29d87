//! Port 15008: the other agent's connection, and the tunnels on it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use mesh_hbone::{Handler, InboundRequest, ServeError, accept_tls, serve_connection};
use mesh_identity::tls::peer_identity;
use mesh_model::{Identity, Reason};
use tokio::net::TcpStream;

use super::authorize::Refused;
use super::{Inbound, authorize, delivery_reason};
use crate::connections::carry;
use crate::outbound::Chain;
use crate::pods::Pod;
use crate::{relay, socket};

impl Inbound {
    /// Serves one connection of another agent's.
    pub async fn hbone(self: Arc<Self>, pod: Arc<Pod>, tcp: TcpStream, peer: SocketAddr) {
        let Some(certificate) = self.keyring.certificate(pod.identity()) else {
            self.refuse(&pod, peer, Reason::NoCertificate, &"no valid certificate for this pod");
            return socket::reset(tcp);
        };
        let began = Instant::now();
        let mut place = self.handshakes.enter(&pod.workload.uid);
        let accepted = tokio::select! {
            biased;
            accepted = accept_tls(tcp, certificate.server_config().clone(), &self.config) => Some(accepted),
            () = place.evicted() => None,
        };
        drop(place);
        let took = began.elapsed();
        let stream = match accepted {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return self.refuse(&pod, peer, error.reason(), &Chain(&error)),
            None => {
                let detail = "the oldest of too many handshakes that were not finished";
                return self.refuse(&pod, peer, Reason::HandshakesFull, &detail);
            }
        };
        let identity = match peer_identity(stream.session()) {
            Ok(identity) => identity,
            Err(error) => return self.refuse(&pod, peer, error.reason(), &Chain(&error)),
        };
        self.metrics.handshake("server", "ok");
        self.metrics.handshake_took("server", took);
        let handler = Arc::new(Tunnels { inbound: self.clone(), pod: pod.clone(), peer, identity });
        let client = handler.clone();
        // Tunnels outlive the pod's listeners: a pod that left the mesh keeps what runs.
        let shutdown = pod.released.clone();
        if let Err(error) = serve_connection(stream, &self.config, peer, handler, shutdown).await {
            match error {
                // Its tunnels tell of that.
                ServeError::Http(_) | ServeError::Silent => {
                    tracing::debug!(%peer, pod = %pod.workload.name, error = %Chain(&error), "an HBONE connection broke");
                }
                _ => client.rejected(error.reason(), &Chain(&error).to_string()),
            }
        }
    }

    fn refuse(&self, pod: &Pod, peer: SocketAddr, reason: Reason, detail: &dyn std::fmt::Display) {
        self.metrics.handshake("server", reason.as_str());
        let at = pod.address_like(peer.ip()).unwrap_or(peer.ip());
        let about = self.about(pod, peer, SocketAddr::new(at, mesh_hbone::PORT), None);
        self.connections.refuse(&about, reason, detail);
    }
}

/// Takes the tunnels of one connection.
struct Tunnels {
    inbound: Arc<Inbound>,
    pod: Arc<Pod>,
    /// The other agent's end, which is the source pod's own address.
    peer: SocketAddr,
    /// Shown in the handshake.
    identity: Identity,
}

impl Handler for Tunnels {
    fn connect(&self, request: InboundRequest) -> BoxFuture<'static, ()> {
        let (inbound, pod) = (self.inbound.clone(), self.pod.clone());
        let (identity, client) = (self.identity.clone(), client(self.peer, request.forwarded_for()));
        Box::pin(async move { inbound.tunnel(&pod, request, client, identity).await })
    }

    fn rejected(&self, reason: Reason, detail: &str) {
        let at = self.pod.address_like(self.peer.ip()).unwrap_or(self.peer.ip());
        let at = SocketAddr::new(at, mesh_hbone::PORT);
        let about = self.inbound.about(&self.pod, self.peer, at, Some(self.identity.clone()));
        self.inbound.connections.refuse(&about, reason, &detail);
    }
}

impl Inbound {
    async fn tunnel(&self, pod: &Pod, request: InboundRequest, client: SocketAddr, identity: Identity) {
        let target = request.authority();
        let about = self.about(pod, client, target, Some(identity));
        if let Err(Refused { reason, detail }) = authorize::destination(pod, target) {
            self.connections.refuse(&about, reason, &detail);
            return request.refuse(400);
        }
        if let Err(Refused { reason, detail }) = self.admit(pod, &about) {
            self.connections.refuse(&about, reason, &detail);
            return request.refuse(403);
        }
        match socket::deliver(&pod.netns, &self.maps, target, client).await {
            Ok((app, _claim)) => {
                let tunnel = request.accept();
                let open = self.connections.open(about);
                self.look_again(pod, &open);
                carry(open, async |meter| relay::relay(app, tunnel, meter).await).await;
            }
            Err(error) => {
                self.connections.refuse(&about, delivery_reason(&error), &error);
                request.refuse(503);
            }
        }
    }
}

/// The client as the application will see it: the peer's own address, with the port that the peer says, if it speaks of
/// that address.
fn client(peer: SocketAddr, forwarded: Option<SocketAddr>) -> SocketAddr {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    match forwarded {
        Some(said) if said.ip().to_canonical() == peer.ip() && said.port() != 0 => {
            SocketAddr::new(peer.ip(), said.port())
        }
        _ => peer,
    }
}
