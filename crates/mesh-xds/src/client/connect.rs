//! One connection to the controller, and the token for a call on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_identity::{Roots, RootsError};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use super::ClientConfig;
use crate::proto::control_client::ControlClient;

/// Name resolution, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// HTTP/2 PING this often, also while nothing else is said …
const KEEPALIVE: Duration = Duration::from_secs(10);
/// … and so long for its answer: a controller that vanished is noticed within 20 s.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The controller's address is malformed.
    #[error("{0:?} is not the address of a controller (HOST:PORT)")]
    Address(String),
    /// The name to verify is malformed.
    #[error("{0:?} is not a server name")]
    ServerName(String),
    /// The roots cannot be read.
    #[error("cannot tell the controller from an impostor")]
    Roots(#[source] RootsError),
    /// No TLS configuration comes of the roots.
    #[error("the roots cannot be used for TLS")]
    Tls(#[source] mesh_identity::TlsError),
    /// The token cannot be read.
    #[error("cannot read the token from {}: put the node's token there", path.display())]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token file is empty or holds what no header may hold.
    #[error("{} holds no token: put the node's token there, on one line", .0.display())]
    Token(PathBuf),
    /// TCP or TLS failed.
    #[error("cannot reach the controller at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The controller answered with a refusal.
    #[error("the controller refused: {}", .0.message())]
    Refused(tonic::Status),
    /// The stream ended.
    #[error("the stream to the controller broke: {}", .0.message())]
    Broken(tonic::Status),
    /// The controller closed the stream.
    #[error("the controller closed the stream")]
    Closed,
    /// No answer to the hello.
    #[error("the controller did not answer the hello within {} s", .0.as_secs())]
    Silent(Duration),
    /// The controller broke the protocol.
    #[error("the controller broke the protocol: {0}")]
    Protocol(&'static str),
}

/// Connects and verifies the controller.
pub(super) async fn connect(config: &ClientConfig) -> Result<Channel, ConnectError> {
    let address = config.controller.rsplit("//").next().unwrap_or_default().trim_end_matches('/').to_owned();
    if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(ConnectError::Address(config.controller.clone()));
    }
    let name = ServerName::try_from(config.server_name.clone())
        .map_err(|_| ConnectError::ServerName(config.server_name.clone()))?;
    let roots = Roots::from_pem_file(&config.roots).map_err(ConnectError::Roots)?;
    let tls =
        TlsConnector::from(mesh_identity::tls::control_client_config(&roots).map_err(ConnectError::Tls)?);

    // The scheme is `http` because TLS is the connector's, not tonic's; the authority is what the server calls itself.
    let uri = Uri::builder()
        .scheme("http")
        .authority(config.server_name.as_str())
        .path_and_query("/")
        .build()
        .map_err(|_| ConnectError::ServerName(config.server_name.clone()))?;
    let target = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (target, tls, name) = (target.clone(), tls.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect(&target).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Unreachable { address, source })
}

/// The generated client with this wire's limits.
pub(super) fn control(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(crate::MAX_MESSAGE)
        .max_encoding_message_size(crate::MAX_MESSAGE)
}

/// A call's `authorization`, read now: tokens are replaced under a running agent.
pub(super) async fn authorization(token_file: &Path) -> Result<MetadataValue<Ascii>, ConnectError> {
    let text = tokio::fs::read_to_string(token_file)
        .await
        .map_err(|source| ConnectError::TokenFile { path: token_file.into(), source })?;
    let empty = || ConnectError::Token(token_file.into());
    let token = text.trim();
    if token.is_empty() {
        return Err(empty());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| empty())?;
    value.set_sensitive(true);
    Ok(value)
}
