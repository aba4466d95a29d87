//! Listening, accepting, and stopping.
//!
//! Binding is apart from serving, so that an end knows at its very start whether it can be reached. On shutdown the
//! listener closes, answers under way are finished, and what is not done after [`GRACE`] is cut.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

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
/// Connections at once; further ones wait in the listener's backlog.
const CONNECTION_LIMIT: usize = 256;
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

    /// Where a TCP server listens (the port that was chosen for port 0); `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
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
                accept_loop(accept, routes, &shutdown).await;
            }
            Listener::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let accept = async move || Ok(listener.accept().await?.0);
                accept_loop(accept, routes, &shutdown).await;
            }
        }
        Ok(())
    }
}

/// Accepts until shutdown; then drops `accept`, the listener in it, and sees the open connections off.
async fn accept_loop<S>(accept: impl AsyncFn() -> io::Result<S>, routes: Arc<Routes>, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // Acquiring fails only on a closed semaphore, and nobody closes this one.
            let place = places.clone().acquire_owned().await.ok();
            accept().await.map(|stream| (stream, place))
        };
        tokio::select! {
            () = shutdown.wait() => break,
            accepted = accepted => match accepted {
                Ok((stream, place)) => {
                    let connection = connection(stream, routes.clone(), shutdown.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
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

async fn connection<S>(stream: S, routes: Arc<Routes>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let routes = routes.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&routes, request).await) }
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

async fn answer(routes: &Routes, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let handler = match routes.find(&head.method, head.uri.path()) {
        Ok(handler) => handler,
        Err(response) => return response.into_hyper(),
    };
    let body = if head.method == Method::POST {
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return refuse_body(error.as_ref()).into_hyper(),
            Err(_) => {
                let message = format!("no whole body within {} s", BODY_TIMEOUT.as_secs());
                return Response::error(StatusCode::REQUEST_TIMEOUT, message).into_hyper();
            }
        }
    } else {
        Bytes::new()
    };
    let request = Request { query: head.uri.query().map(Into::into), headers: head.headers, body };
    handler(request).await.into_hyper()
}

fn refuse_body(error: &(dyn std::error::Error + 'static)) -> Response {
    if error.is::<http_body_util::LengthLimitError>() {
        let message = format!("a body has at most {BODY_LIMIT} bytes");
        return Response::error(StatusCode::PAYLOAD_TOO_LARGE, message);
    }
    Response::error(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
}
