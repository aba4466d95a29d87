#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

//! Real sockets on both ends, HBONE in between:
//! client ─ near relay ═ HBONE ═ far relay ─ application.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mesh_hbone::{
    ClientConfig, ConnectRequest, Dial, DialError, Dialed, Handler, InboundRequest, Pool, ServerConfig,
    Shutdown, accept_tls, serve_connection,
};
use mesh_identity::tls::{client_config, server_config};
use mesh_identity::{Authority, BuiltinAuthority, KeyRequest};
use mesh_model::Identity;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

mod bulk;
mod ends;

/// Both ends of one throw-away identity.
fn tls() -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let dir = tempfile::tempdir().unwrap();
    let identity: Identity = "spiffe://test/ns/shop/sa/cart".parse().unwrap();
    let authority = BuiltinAuthority::open_or_create(dir.path(), identity.trust_domain()).unwrap();
    let request = KeyRequest::new(&identity).unwrap();
    let chain = authority.sign(&request.csr_pem(), &identity, Duration::from_secs(3600)).unwrap();
    let certificate = request.finish(chain.pem()).unwrap();
    let client = client_config(&certificate, &authority.roots(), &[identity]).unwrap();
    (client, server_config(&certificate, &authority.roots()).unwrap())
}

struct ToFar {
    far: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
}

impl Dial for ToFar {
    fn dial(&self) -> BoxFuture<'_, Result<Dialed, DialError>> {
        async {
            let tcp = TcpStream::connect(self.far).await?;
            Ok(Dialed { tcp, tls: self.tls.clone(), server_name: "peer".try_into().unwrap() })
        }
        .boxed()
    }
}

/// Delivers to the authority, as an inbound agent does.
struct Deliver {
    outcomes: mpsc::UnboundedSender<Outcome>,
}

impl Handler for Deliver {
    fn connect(&self, request: InboundRequest) -> BoxFuture<'static, ()> {
        let outcomes = self.outcomes.clone();
        async move {
            match TcpStream::connect(request.authority()).await {
                Ok(app) => {
                    let outcome = relay(app, request.accept(), &Meter::default()).await;
                    let _ = outcomes.send(outcome);
                }
                Err(_) => request.refuse(503),
            }
        }
        .boxed()
    }

    fn rejected(&self, reason: Reason, detail: &str) {
        panic!("{reason} {detail}");
    }
}

/// Two agents and an application's listener.
struct Mesh {
    /// Where clients connect to reach the application.
    near: SocketAddr,
    app: TcpListener,
    near_outcomes: mpsc::UnboundedReceiver<Outcome>,
    far_outcomes: mpsc::UnboundedReceiver<Outcome>,
    /// Meters of the near relays, in order.
    meters: Arc<Mutex<Vec<Arc<Meter>>>>,
    /// The far agent's connections.
    far_tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
    listening: Vec<JoinHandle<()>>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.listening.iter().for_each(|task| task.abort());
        self.kill_far();
    }
}

impl Mesh {
    async fn start() -> Self {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = app.local_addr().unwrap();
        Self::to(app, authority).await
    }

    async fn to(app: TcpListener, authority: SocketAddr) -> Self {
        let (client_tls, server_tls) = tls();
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (far_addr, near_addr) = (far.local_addr().unwrap(), near.local_addr().unwrap());
        let (far_sender, far_outcomes) = mpsc::unbounded_channel();
        let (near_sender, near_outcomes) = mpsc::unbounded_channel();
        let far_tasks: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let meters: Arc<Mutex<Vec<Arc<Meter>>>> = Arc::default();
        let far_listening = tokio::spawn({
            let far_tasks = far_tasks.clone();
            async move {
                let handler = Arc::new(Deliver { outcomes: far_sender });
                loop {
                    let (tcp, peer) = far.accept().await.unwrap();
                    let (tls, handler) = (server_tls.clone(), handler.clone());
                    far_tasks.lock().unwrap().push(tokio::spawn(async move {
                        let config = ServerConfig::default();
                        let stream = accept_tls(tcp, tls, &config).await.unwrap();
                        let _ = serve_connection(stream, &config, peer, handler, Shutdown::new()).await;
                    }));
                }
            }
        });
        let near_listening = tokio::spawn({
            let meters = meters.clone();
            async move {
                let pool = Pool::new(ClientConfig::default());
                let dial = Arc::new(ToFar { far: far_addr, tls: client_tls });
                loop {
                    let (client, peer) = near.accept().await.unwrap();
                    let (pool, dial, outcomes) = (pool.clone(), dial.clone(), near_sender.clone());
                    let meter = Arc::new(Meter::default());
                    meters.lock().unwrap().push(meter.clone());
                    tokio::spawn(async move {
                        let request =
                            ConnectRequest { authority, client: peer, baggage: None, traceparent: None };
                        let tunnel = pool.open(&(), &*dial, request).await.unwrap();
                        let outcome = relay(client, tunnel, &meter).await;
                        let _ = outcomes.send(outcome);
                    });
                }
            }
        });
        Self {
            near: near_addr,
            app,
            near_outcomes,
            far_outcomes,
            meters,
            far_tasks,
            listening: vec![far_listening, near_listening],
        }
    }

    /// A client's socket, and the application's for it.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let (client, server) = tokio::join!(TcpStream::connect(self.near), self.app.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn kill_far(&self) {
        self.far_tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    async fn ends(&mut self) -> (End, End) {
        let near = soon(self.near_outcomes.recv()).await.unwrap();
        let far = soon(self.far_outcomes.recv()).await.unwrap();
        (near.end, far.end)
    }
}

/// A client and an application with a plain relay between them.
async fn plain() -> (TcpStream, TcpStream, JoinHandle<Outcome>) {
    let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(near.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = near.accept().await.unwrap();
    let dialled = TcpStream::connect(far.local_addr().unwrap()).await.unwrap();
    let (server, _) = far.accept().await.unwrap();
    let relaying = tokio::spawn(async move { relay_plain(accepted, dialled, &Meter::default()).await });
    (client, server, relaying)
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("not in time")
}

/// Closes with RST.
fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// What a read says that should find a reset.
async fn read_kind(socket: &mut TcpStream) -> Result<usize, ErrorKind> {
    soon(socket.read(&mut [0; 16])).await.map_err(|error| error.kind())
}

async fn say(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    from.write_all(words).await.unwrap();
    let mut got = vec![0; words.len()];
    soon(to.read_exact(&mut got)).await.unwrap();
    assert_eq!(got, words);
}
