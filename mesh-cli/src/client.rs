//! One request to an admin socket: HTTP/1.1 over a unix socket, an answer in JSON.
//!
//! The errors tell apart what a script must tell apart: nobody there (exit code 3) and somebody who says no (1). Each
//! names the socket and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_telemetry::api::ErrorBody;
use serde_json::Value;
use tokio::net::UnixStream;

#[cfg(test)]
mod tests;

/// Asks one admin socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// For connect, request and answer together.
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The file is not there.
    #[error(
        "no socket at {}: is the agent running on this node? (--socket names another socket)",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// The file is there, the process is not.
    #[error(
        "nobody listens on {}: the agent is not running, start it (--socket names another socket)",
        .0.display()
    )]
    Refused(PathBuf),
    /// Not for this user.
    #[error("permission denied on {}: run meshctl as root", .0.display())]
    Denied(PathBuf),
    /// Connected, or about to, and no answer in time.
    #[error(
        "no answer on {} within {} s: the process hangs or is overloaded (see its log; --timeout waits longer)",
        .socket.display(),
        .after.as_secs_f32()
    )]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited.
        after: Duration,
    },
    /// Any other error of connect.
    #[error("cannot connect to {}", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Connected, and then no HTTP answer.
    #[error("{} broke off: is it an admin socket of Weft, and is its process still running?", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: hyper::Error,
    },
    /// An agent that has no such path: most likely it is a controller.
    #[error("{} does not answer this: {message} (a controller's socket answers `status` alone)", .socket.display())]
    NoSuchPath {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        message: String,
    },
    /// The agent says no.
    #[error("{} answers {status}: {message}", .socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// The answer is no JSON.
    #[error("{} does not answer in JSON: is it an admin socket of Weft?", .socket.display())]
    NotJson {
        /// The socket.
        socket: PathBuf,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// The runtime could not be made.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
}

impl ClientError {
    /// Nobody answers, as opposed to an answer that is an error.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::NoSocket(_)
            | Self::Refused(_)
            | Self::Denied(_)
            | Self::Timeout { .. }
            | Self::Connect { .. }
            | Self::Broken { .. } => true,
            Self::NoSuchPath { .. } | Self::Answer { .. } | Self::NotJson { .. } | Self::Runtime(_) => false,
        }
    }
}

impl Client {
    /// Connects with the first request.
    pub(crate) fn new(socket: &Path, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout }
    }

    /// The socket that is asked.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET.
    pub(crate) fn get(&self, path: &'static str) -> Result<Value, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        let (status, body) = runtime.block_on(async {
            tokio::time::timeout(self.timeout, self.exchange(path)).await.unwrap_or_else(|_| {
                Err(ClientError::Timeout { socket: self.socket.clone(), after: self.timeout })
            })
        })?;
        let socket = self.socket.clone();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|source| ClientError::NotJson { socket, source });
        }
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => body.error,
            Err(_) => String::from_utf8_lossy(&body).trim().chars().take(200).collect(),
        };
        Err(if status == StatusCode::NOT_FOUND {
            ClientError::NoSuchPath { socket, message }
        } else {
            ClientError::Answer { socket, status, message }
        })
    }

    async fn exchange(&self, path: &'static str) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |source| ClientError::Broken { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let mut request = hyper::Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = hyper::Uri::from_static(path);
        request.headers_mut().insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("weft"));
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok((status, body))
    }

    fn no_connection(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(socket),
            io::ErrorKind::ConnectionRefused => ClientError::Refused(socket),
            io::ErrorKind::PermissionDenied => ClientError::Denied(socket),
            _ => ClientError::Connect { socket, source },
        }
    }
}
