//! The server end: the agent of a pod that is annotated `weft.dev/tunnel: hbone`, at port 15008 of that pod. It hands each
//! CONNECT to what the test put in, and keeps what it saw.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use lab::Pod;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::client::Windows;
use crate::padded::{Heard, Padded};
use crate::stream::{PATIENCE, Stream};
use crate::{HBONE, pki};

/// What the server does with each CONNECT.
pub type Serve = dyn Fn(Arrival) -> BoxFuture<'static, ()> + Send + Sync;

/// How the server behaves below HTTP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Streams that it takes at once on a connection; ztunnel's 200 where nothing is said.
    pub max_streams: Option<u32>,
    /// Flow control.
    pub windows: Windows,
    /// Padding of DATA frames.
    pub padding: Option<u8>,
    /// Asks with a PING whether the client is there, again and again.
    pub pings: bool,
    /// Takes so long between the handshake and its SETTINGS.
    pub late_settings: Option<Duration>,
}

/// A CONNECT that waits for its answer.
#[derive(Debug)]
pub struct Arrival {
    /// On which of the server's connections it came, from 0.
    pub connection: usize,
    /// Method, authority and headers.
    pub head: Parts,
    receive: RecvStream,
    respond: SendResponse<Bytes>,
}

/// What the server saw.
#[derive(Debug, Default)]
struct Seen {
    /// SPIFFE IDs of those who connected, one a connection.
    clients: Vec<String>,
    /// The name that each asked for in the handshake.
    names: Vec<Option<String>>,
    /// The first bytes that each said.
    heard: Vec<Heard>,
    /// Streams now open and the most that there were at once, one a connection.
    streams: Vec<Arc<Streams>>,
    /// Method, authority and headers of each CONNECT.
    arrivals: Vec<Parts>,
    /// Whether each has said GOAWAY, or is over.
    left: Vec<Arc<AtomicBool>>,
    /// Why connections did not get past their handshakes.
    failures: Vec<String>,
}

#[derive(Debug, Default)]
struct Streams {
    open: AtomicUsize,
    most: AtomicUsize,
}

/// A server that runs. Stopped, it drops its connections.
#[derive(Debug)]
pub struct Server {
    pod: Arc<Pod>,
    seen: Arc<Mutex<Seen>>,
    pongs: Arc<AtomicUsize>,
    leave: watch::Sender<u32>,
    /// Ends all tasks when it goes.
    stop: Option<watch::Sender<()>>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Starts at port 15008 of a pod, on all of its addresses.
    pub fn start(
        runtime: &Handle,
        pod: &Arc<Pod>,
        tls: ServerConfig,
        manner: Manner,
        serve: impl Fn(Arrival) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = pod.listen((std::net::Ipv6Addr::UNSPECIFIED, HBONE).into())??;
        listener.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        let (stop, mut stopped) = watch::channel(());
        let leave = watch::Sender::new(0);
        let (seen, pongs): (Arc<Mutex<Seen>>, Arc<AtomicUsize>) = Default::default();
        let shared = Shared {
            tls: Arc::new(tls),
            manner,
            serve: Arc::new(serve),
            seen: seen.clone(),
            pongs: pongs.clone(),
            leave: leave.subscribe(),
        };
        let accepting = runtime.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stopped.changed() => return,
                };
                let Ok((tcp, _)) = accepted else { continue };
                let (shared, mut stopped) = (shared.clone(), stopped.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = shared.connection(tcp) => {}
                        _ = stopped.changed() => {}
                    }
                });
            }
        });
        Ok(Self { pod: pod.clone(), seen, pongs, leave, stop: Some(stop), accepting })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Connections whose handshake is done, ever.
    pub fn connections(&self) -> usize {
        self.seen().clients.len()
    }

    /// SPIFFE IDs of those who connected.
    pub fn clients(&self) -> Vec<String> {
        self.seen().clients.clone()
    }

    /// The server names that they asked for.
    pub fn names(&self) -> Vec<Option<String>> {
        self.seen().names.clone()
    }

    /// The first bytes that came on the first connection.
    pub fn heard(&self) -> Vec<u8> {
        self.seen().heard.first().map(|heard| lock(heard).clone()).unwrap_or_default()
    }

    /// The CONNECTs that came.
    pub fn arrivals(&self) -> Vec<Parts> {
        self.seen().arrivals.clone()
    }

    /// The most streams that were open at once, one a connection.
    pub fn most_streams(&self) -> Vec<usize> {
        self.seen().streams.iter().map(|streams| streams.most.load(Ordering::Relaxed)).collect()
    }

    /// Why connections failed before they were any.
    pub fn failures(&self) -> Vec<String> {
        self.seen().failures.clone()
    }

    /// Answers to its PINGs.
    pub fn pongs(&self) -> usize {
        self.pongs.load(Ordering::Relaxed)
    }

    /// Says GOAWAY on all connections that there are: what runs may end in its own time. When this returns, whatever
    /// the server says comes after it.
    pub fn leave(&self) -> Result<()> {
        let all = self.seen().left.clone();
        self.leave.send_modify(|times| *times += 1);
        lab::eventually(PATIENCE, || match all.iter().filter(|left| !left.load(Ordering::Acquire)).count() {
            0 => Ok(()),
            some => Err(format!("{some} of {} connections go on", all.len())),
        })
    }

    /// Drops everything, and waits until the clients have let go of their connections.
    pub fn stop(mut self) -> Result<()> {
        self.end();
        let pod = self.pod.clone();
        lab::eventually(PATIENCE, || match sockets_at(&pod) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?} sockets at {HBONE} of {}", pod.key())),
        })
    }

    fn end(&mut self) {
        // All tasks see the end of the channel.
        self.stop.take();
        self.accepting.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sockets of the pod's HBONE port that are in use: all but those in TIME_WAIT.
fn sockets_at(pod: &Pod) -> Result<usize> {
    const TIME_WAIT: &str = "06";
    pod.netns_thread(|| {
        let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
        let text: String = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        let port = format!(":{HBONE:04X}");
        let used = |line: &&str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) != Some(&TIME_WAIT)
        };
        text.lines().filter(used).count()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What each connection needs.
#[derive(Clone)]
struct Shared {
    tls: Arc<ServerConfig>,
    manner: Manner,
    serve: Arc<Serve>,
    seen: Arc<Mutex<Seen>>,
    pongs: Arc<AtomicUsize>,
    leave: watch::Receiver<u32>,
}

impl Shared {
    async fn connection(self, tcp: TcpStream) {
        let seen = self.seen.clone();
        if let Err(error) = self.serve_connection(tcp).await {
            lock(&seen).failures.push(format!("{error:#}"));
        }
    }

    async fn serve_connection(mut self, tcp: TcpStream) -> Result<()> {
        tcp.set_nodelay(true)?;
        let tls =
            tokio_rustls::TlsAcceptor::from(self.tls.clone()).accept(tcp).await.context("the handshake")?;
        let session = tls.get_ref().1;
        ensure!(session.alpn_protocol() == Some(b"h2"), "ALPN {:?}", session.alpn_protocol());
        let leaf = session.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        let (client, name) = (pki::identity(leaf)?, session.server_name().map(str::to_owned));
        let (heard, streams): (Heard, Arc<Streams>) = Default::default();
        let left = Left::default();
        self.leave.mark_unchanged();
        let number = {
            let mut seen = lock(&self.seen);
            seen.clients.push(client);
            seen.names.push(name);
            seen.heard.push(heard.clone());
            seen.streams.push(streams.clone());
            seen.left.push(left.0.clone());
            seen.clients.len() - 1
        };
        if let Some(pause) = self.manner.late_settings {
            tokio::time::sleep(pause).await;
        }
        let Windows { stream, connection, frame } = self.manner.windows;
        let mut h2 = h2::server::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .max_frame_size(frame)
            .max_header_list_size(64 << 10)
            .max_concurrent_streams(self.manner.max_streams.unwrap_or(200))
            .handshake::<_, Bytes>(Padded::new(tls, self.manner.padding, heard))
            .await
            .context("the preface")?;
        let pings = h2.ping_pong().filter(|_| self.manner.pings);
        let _asking = pings.map(|pings| ask(pings, self.pongs.clone()));
        loop {
            let arrived = tokio::select! {
                arrived = h2.accept() => arrived,
                Ok(()) = self.leave.changed() => {
                    h2.graceful_shutdown();
                    left.0.store(true, Ordering::Release);
                    continue;
                }
            };
            let Some(arrived) = arrived else { return Ok(()) };
            let (request, respond) = arrived?;
            let (head, receive) = request.into_parts();
            lock(&self.seen).arrivals.push(head.clone());
            let now = streams.open.fetch_add(1, Ordering::Relaxed) + 1;
            streams.most.fetch_max(now, Ordering::Relaxed);
            let (done, work) =
                (streams.clone(), (self.serve)(Arrival { connection: number, head, receive, respond }));
            tokio::spawn(async move {
                work.await;
                done.open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Set when the connection has said GOAWAY, or is over.
#[derive(Debug, Default)]
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// PINGs until it is dropped.
fn ask(mut pings: PingPong, pongs: Arc<AtomicUsize>) -> oneshot::Sender<()> {
    let (keep, mut gone) = oneshot::channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                pong = pings.ping(Ping::opaque()) => match pong {
                    Ok(_) => { pongs.fetch_add(1, Ordering::Relaxed); }
                    Err(_) => return,
                },
                _ = &mut gone => return,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    keep
}

impl Arrival {
    /// Answers 200.
    pub fn accept(self) -> Result<Stream> {
        self.accept_with(HeaderMap::new())
    }

    /// Answers 200 with headers.
    pub fn accept_with(mut self, headers: HeaderMap) -> Result<Stream> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self.respond.send_response(response, false)?;
        Ok(Stream { send, receive: self.receive })
    }

    /// Says something before the answer (1xx).
    pub fn inform(&mut self, status: u16) -> Result<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status)?;
        Ok(self.respond.send_informational(response)?)
    }

    /// Answers with a status and END_STREAM.
    pub fn refuse(mut self, status: u16) -> Result<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status)?;
        self.respond.send_response(response, true)?;
        Ok(())
    }

    /// Resets it instead of an answer.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}
