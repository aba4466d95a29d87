//! Ways to an end: each gives a stream of bytes that HTTP is spoken on.
//!
//! ```text
//! Unix   a path                        Tls    TCP, then mutual TLS by files
//! Pod    the API server's portforward to the admin port on the pod's own loopback; the pod is looked for at the first request, and
//!        again after one that failed: another may be in its place
//! Nodes  such a way for each node's agent; which nodes there are is asked again after half a minute
//! ```

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_telemetry::http::tls::{self, TlsFiles};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, Error as RustlsError};

use super::ClientError;
use crate::args::Remote;
use crate::cluster::ClusterError;
use crate::cluster::forward::{Complaint, Down, Found, Tunnels, Wanted};

/// How long it is believed which nodes there are: whoever looks every second asks the API server for it that much less often.
const NODES_FOR: Duration = Duration::from_secs(30);
/// The same while one of them has no agent that runs.
const NODES_FOR_AT_LEAST: Duration = Duration::from_secs(5);
/// Nodes that are asked in one second, again and again.
const NODES_A_SECOND: u64 = 20;

/// A way to an end, or to many.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP with mutual TLS.
    Tls(Arc<Remote>),
    /// A pod's admin port.
    Pod(Pod),
    /// That of each node's agent.
    Nodes(Nodes),
}

/// A pod that is looked for once, as long as it answers.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    tunnels: Arc<Tunnels>,
    wanted: Wanted,
    /// Held for a look, never while somebody is waited for.
    found: Arc<Mutex<Option<Found>>>,
}

/// The agents of all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    /// How they are reached.
    tunnels: Arc<Tunnels>,
    /// Those that there were when it was last asked. Held for a look, never while somebody is waited for.
    known: Arc<Mutex<Option<Known>>>,
}

/// A node, and the way to its agent if that runs.
type Node = (String, Result<Transport, Down>);

/// Which nodes there are.
#[derive(Debug)]
struct Known {
    since: Instant,
    nodes: Vec<Node>,
}

/// A stream, and who may say why it ended.
pub(super) struct Dialled {
    /// What HTTP is spoken on.
    stream: Box<dyn Stream>,
    /// The node's word, of a stream through the cluster.
    complaint: Option<Complaint>,
}

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Transport {
    /// To the pod that fits first.
    pub(crate) fn pod(tunnels: Arc<Tunnels>, wanted: Wanted) -> Self {
        Self::Pod(Pod { tunnels, wanted, found: Arc::default() })
    }

    /// To the agents of all nodes.
    pub(crate) fn nodes(tunnels: Arc<Tunnels>) -> Self {
        Self::Nodes(Nodes { tunnels, known: Arc::default() })
    }

    /// There was no answer: what was found on the way may be there no more.
    pub(super) fn forget(&self) {
        if let Self::Pod(pod) = self {
            *pod.found() = None;
        }
    }

    pub(super) async fn dial(&self) -> Result<Dialled, ClientError> {
        let stream: Box<dyn Stream> = match self {
            Self::Unix(path) => {
                Box::new(UnixStream::connect(path).await.map_err(|error| no_socket(path, error))?)
            }
            Self::Tls(remote) => remote_stream(remote).await?,
            Self::Pod(pod) => {
                let known = pod.found().clone();
                let found = match known {
                    Some(found) => found,
                    None => pod.tunnels.find(&pod.wanted).await?,
                };
                *pod.found() = Some(found.clone());
                let (stream, complaint) = pod.tunnels.dial(&found).await?;
                return Ok(Dialled { stream: Box::new(stream), complaint: Some(complaint) });
            }
            Self::Nodes(_) => return Err(ClientError::OneAlone),
        };
        Ok(Dialled { stream, complaint: None })
    }

    /// A stream that HTTP broke off on. TLS 1.3 says after its handshake that it does not let somebody in, and a node that nobody listens
    /// on a pod's port.
    pub(super) fn broken(&self, source: hyper::Error, complaint: Option<&Complaint>) -> ClientError {
        let end = self.to_string();
        if let Some(message) = complaint.and_then(Complaint::said) {
            return ClusterError::Forward { end, message: message.trim().into() }.into();
        }
        match alert(&source) {
            Some(alert) => ClientError::NotLetIn { end, alert },
            None => ClientError::Broken { end, source },
        }
    }
}

impl Dialled {
    /// The stream, and who is asked once it has ended.
    pub(super) fn apart(self) -> (Box<dyn Stream>, Option<Complaint>) {
        (self.stream, self.complaint)
    }
}

impl Pod {
    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node whose agent is wanted.
    pub(super) fn node(&self) -> Option<&str> {
        match &self.wanted {
            Wanted::Node(node) => Some(node),
            Wanted::Controller | Wanted::Pod(..) => None,
        }
    }
}

impl Nodes {
    /// A way to each node's agent, or why there is none.
    pub(super) async fn each(&self, timeout: Duration) -> Result<Vec<Node>, ClientError> {
        if let Some(known) = self.known().as_ref().filter(|known| known.is_fresh()) {
            return Ok(known.nodes.clone());
        }
        let agents = tokio::time::timeout(timeout, self.tunnels.agents())
            .await
            .map_err(|_| ClientError::Timeout { end: self.to_string(), after: timeout })??;
        let to = |(node, agent): (String, Result<Found, Down>)| {
            let way = agent.map(|found| {
                Transport::Pod(Pod {
                    tunnels: self.tunnels.clone(),
                    wanted: Wanted::Node(node.clone()),
                    found: Arc::new(Mutex::new(Some(found))),
                })
            });
            (node, way)
        };
        let nodes: Vec<Node> = agents.into_iter().map(to).collect();
        *self.known() = Some(Known { since: Instant::now(), nodes: nodes.clone() });
        Ok(nodes)
    }

    /// How often all of them may be asked again and again: a stream through the API server is opened to each, each time.
    pub(super) fn pace(&self) -> Duration {
        let count = self.known().as_ref().map_or(0, |known| known.nodes.len());
        Duration::from_secs(count as u64 / NODES_A_SECOND)
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        let all_run = self.nodes.iter().all(|(_, way)| way.is_ok());
        self.since.elapsed() < if all_run { NODES_FOR } else { NODES_FOR_AT_LEAST }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tls(remote) => write!(f, "{}", remote.address),
            Self::Pod(pod) => match &*pod.found() {
                Some(found) => write!(f, "{} ({found})", pod.wanted),
                None => write!(f, "{}", pod.wanted),
            },
            Self::Nodes(nodes) => nodes.fmt(f),
        }
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the agents of all nodes")
    }
}

fn no_socket(path: &std::path::Path, source: io::Error) -> ClientError {
    let end = path.display().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket(path.into()),
        io::ErrorKind::ConnectionRefused => ClientError::Refused {
            end,
            remedy: "the agent is not running, start it (--socket names another socket)",
        },
        io::ErrorKind::PermissionDenied => ClientError::Denied(path.into()),
        _ => ClientError::Connect { end, source },
    }
}

async fn remote_stream(remote: &Remote) -> Result<Box<dyn Stream>, ClientError> {
    let end = || remote.address.clone();
    let files = TlsFiles { cert: remote.cert.clone(), key: remote.key.clone(), ca: remote.ca.clone() };
    let config = tls::client_config(&files).map_err(ClientError::Files)?;
    let name = ServerName::try_from(remote.server_name.clone())
        .map_err(|error| ClientError::Connect { end: end(), source: io::Error::other(error) })?;
    let stream = TcpStream::connect(&remote.address).await.map_err(|source| match source.kind() {
        io::ErrorKind::ConnectionRefused => ClientError::Refused {
            end: end(),
            remedy: "is its process running, and with --admin-listen on this port?",
        },
        _ => ClientError::Connect { end: end(), source },
    })?;
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => match alert(&source) {
            Some(alert) => Err(ClientError::NotLetIn { end: end(), alert }),
            None => Err(ClientError::NotThem { end: end(), name: remote.server_name.clone(), source }),
        },
    }
}

/// TLS's word for a certificate that the other side does not accept.
fn alert(error: &(dyn Error + 'static)) -> Option<String> {
    use AlertDescription as Alert;
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error shows what it wraps only by a call of its own.
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let tls = error.downcast_ref::<RustlsError>().or_else(|| inner?.downcast_ref());
        if let Some(RustlsError::AlertReceived(alert)) = tls {
            let about_us = matches!(
                alert,
                Alert::CertificateRequired
                    | Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateExpired
                    | Alert::CertificateUnknown
                    | Alert::UnknownCA
                    | Alert::AccessDenied
                    | Alert::DecryptError
            );
            return about_us.then(|| format!("{alert:?}"));
        }
        next = error.source();
    }
    None
}
