//! Listening, accepting, and stopping.
//!
//! Binding is apart from serving, so that an end knows at its very start whether it can be reached. On shutdown the
//! listener closes, answers under way are finished, and what is not done after [`GRACE`] is cut. Whoever does nothing with a connection
//! loses it to who comes next (`crowd`).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::crowd::{Crowd, Place, Watched};
use super::tls::MutualTls;
use super::unix::{self, SocketFile};
use super::{Request, Response, Routes};
use crate::listen;
use crate::shutdown::Shutdown;

/// How long answers under way may take once the server stops.
const GRACE: Duration = Duration::from_secs(3);
/// How long a client may take to send a request's head, or to stay idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's body.
const BODY_LIMIT: usize = 64 * 1024;
/// How long to leave the listener alone after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a server could not listen. Paths and addresses are as they were given.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on the socket.
    #[error(
        "{} is in use by a running process: stop it, or choose another path with --admin-socket",
        .0.display()
    )]
    Live(PathBuf),
    /// There is something that is not a socket; it is left as it is.
    #[error("{} exists and is not a socket: remove it, or choose another path with --admin-socket", .0.display())]
    NotASocket(PathBuf),
    /// More than a unix socket's address holds.
    #[error("{} is too long for a unix socket (at most 107 bytes): choose a shorter path", .0.display())]
    TooLong(PathBuf),
    /// The directory of the socket could not be made or opened.
    #[error("directory {} of the socket cannot be used", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Any other error around the socket.
    #[error("cannot listen on {}", .path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The TCP address cannot be had.
    #[error("cannot listen on {addr}: is it another process's, or no address of this machine?")]
    Tcp {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound listener that nobody has been answered on yet.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    /// The file is removed when this is dropped.
    Unix(std::os::unix::net::UnixListener, SocketFile),
    Tcp(TcpListener),
    Tls(TcpListener, MutualTls),
}

impl Server {
    /// Listens on a unix socket, mode 0600. A missing parent directory is made, 0700; a socket file whose process is
    /// gone is replaced. The file is removed when the server stops.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, BindError> {
        let (listener, file) = unix::bind(path.as_ref())?;
        Ok(Self { listener: Listener::Unix(listener, file) })
    }

    /// Listens on a TCP address (`listen`).
    pub fn tcp(addr: SocketAddr) -> Result<Self, BindError> {
        let listener = listen::tcp(addr).map_err(|source| BindError::Tcp { addr, source })?;
        Ok(Self { listener: Listener::Tcp(listener) })
    }

    /// The same, for clients that show a certificate which `tls` accepts.
    pub fn tls(addr: SocketAddr, tls: MutualTls) -> Result<Self, BindError> {
        let listener = listen::tcp(addr).map_err(|source| BindError::Tcp { addr, source })?;
        Ok(Self { listener: Listener::Tls(listener, tls) })
    }

    /// Listens on this network namespace's own loopback: for whoever is in it, and for pods/portforward.
    pub fn loopback(port: u16) -> Result<Self, BindError> {
        Self::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Where a TCP server listens (the port that was chosen for port 0); `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) | Listener::Tls(listener, _) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// Answers until `shutdown`, then finishes what is under way (3 s at most). Fails only where the listener cannot
    /// be given to the runtime.
    pub async fn serve(self, routes: Routes, shutdown: Shutdown) -> io::Result<()> {
        let routes = Arc::new(routes);
        match self.listener {
            Listener::Unix(listener, file) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                let accept = async move || {
                    // Goes with the listener: no new client finds a socket that is about to stop.
                    let _file = &file;
                    Ok(listener.accept().await?.0)
                };
                accept_loop(accept, as_it_is, routes, &shutdown).await;
            }
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let accept = async move || Ok(listener.accept().await?.0);
                accept_loop(accept, as_it_is, routes, &shutdown).await;
            }
            Listener::Tls(listener, tls) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let accept = async move || Ok(listener.accept().await?.0);
                let tls = Arc::new(tls);
                let handshake = move |stream| {
                    let tls = tls.clone();
                    async move { tls.accept(stream).await }
                };
                accept_loop(accept, handshake, routes, &shutdown).await;
            }
        }
        Ok(())
    }
}

/// No handshake.
fn as_it_is<S>(stream: S) -> std::future::Ready<Option<S>> {
    std::future::ready(Some(stream))
}

/// Accepts until shutdown; then drops `accept`, the listener in it, and sees the open connections off. A connection has its place before
/// its handshake, so that those are bounded as well.
async fn accept_loop<S, T, F>(
    accept: impl AsyncFn() -> io::Result<S>,
    handshake: impl Fn(S) -> F,
    routes: Arc<Routes>,
    shutdown: &Shutdown,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
{
    let crowd = Arc::new(Crowd::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            accepted = accept() => match accepted {
                Ok(stream) => {
                    let (routes, shutdown, place) = (routes.clone(), shutdown.clone(), crowd.enter());
                    let stream = handshake(stream);
                    connections.spawn(async move {
                        let served = async {
                            if let Some(stream) = stream.await {
                                connection(Watched { stream, place: place.clone() }, routes, shutdown).await;
                            }
                        };
                        tokio::select! {
                            () = served => {}
                            () = place.taken() => tracing::debug!("a client of an admin or metrics listener had to make room"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on an admin or metrics listener");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(accept);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection<S>(stream: Watched<S>, routes: Arc<Routes>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = stream.place.clone();
    let service = service_fn(move |request| {
        let (routes, place) = (routes.clone(), place.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&routes, &place, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BODY_LIMIT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a client of an admin or metrics listener went wrong");
    }
}

async fn answer(
    routes: &Routes,
    place: &Place,
    request: hyper::Request<Incoming>,
) -> hyper::Response<Full<Bytes>> {
    place.room().await;
    let response = respond(routes, request).await;
    place.answers(response.body.len());
    response.into_hyper()
}

async fn respond(routes: &Routes, request: hyper::Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let handler = match routes.find(&head.method, head.uri.path()) {
        Ok(handler) => handler,
        Err(response) => return response,
    };
    if head.method == Method::POST && head.headers.contains_key(ORIGIN) {
        // A page in the browser of somebody who has the port forwarded to their own machine.
        return Response::error(StatusCode::FORBIDDEN, "nothing is changed for a web page");
    }
    let body = if head.method == Method::POST {
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return refuse_body(error.as_ref()),
            Err(_) => {
                let message = format!("no whole body within {} s", BODY_TIMEOUT.as_secs());
                return Response::error(StatusCode::REQUEST_TIMEOUT, message);
            }
        }
    } else {
        Bytes::new()
    };
    let request = Request { query: head.uri.query().map(Into::into), headers: head.headers, body };
    handler(request).await
}

fn refuse_body(error: &(dyn std::error::Error + 'static)) -> Response {
    if error.is::<http_body_util::LengthLimitError>() {
        let message = format!("a body has at most {BODY_LIMIT} bytes");
        return Response::error(StatusCode::PAYLOAD_TOO_LARGE, message);
    }
    Response::error(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
}
