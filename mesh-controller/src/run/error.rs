//! Why the controller does not run, and with which exit code it says so.

use std::net::SocketAddr;
use std::path::PathBuf;

use mesh_identity::{AuthorityError, TlsError};
use mesh_telemetry::http::BindError;

use crate::cluster::ConnectError;
use crate::issue::secret::SecretError;
use crate::publish::TokenError;
use crate::state::StateError;
use crate::watch::FilesError;

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The directory of objects.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The way to the Kubernetes API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// Nobody could say who an agent is.
    #[error("nobody says who an agent is: use --agent-tokens FILE")]
    NoCallers,
    /// The operator's authority.
    #[error("cannot use the authority given by --ca-cert and --ca-key")]
    GivenAuthority(#[source] AuthorityError),
    /// An authority is given, and there is another one in the state directory.
    #[error(
        "{} holds an authority of its own (ca.key, root.pem) beside the one given by --ca-cert: move those two files away, or choose another --state-dir",
        .0.display()
    )]
    TwoAuthorities(PathBuf),
    /// The authority in the state directory.
    #[error("cannot open the authority in the state directory")]
    Authority(#[source] AuthorityError),
    /// The authority in a Secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The controller's own certificate.
    #[error("cannot make the controller's TLS configuration")]
    Tls(#[source] TlsError),
    /// Certificates for meshctl.
    #[error("cannot serve meshctl over TLS (--admin-cert, --admin-key, --admin-client-ca)")]
    AdminTls(#[source] mesh_telemetry::http::tls::TlsError),
    /// An admin or metrics listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The agents' listener.
    #[error(
        "cannot listen on {addr}: is another controller running there? (--listen chooses another address)"
    )]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Serving ended.
    #[error("serving agents failed")]
    Serve(#[source] tonic::transport::Error),
}

impl RunError {
    /// The process's exit code: 2 where the operator gave something wrong, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Files(FilesError::Directory { .. })
            | Self::Connect(_)
            | Self::Tokens(_)
            | Self::NoCallers
            | Self::GivenAuthority(_)
            | Self::TwoAuthorities(_)
            | Self::AdminTls(_) => 2,
            Self::Files(FilesError::Inotify(_) | FilesError::Thread(_))
            | Self::Authority(_)
            | Self::Secret(_)
            | Self::State(_)
            | Self::Tls(_)
            | Self::Bind(_)
            | Self::Listen { .. }
            | Self::Serve(_) => 1,
        }
    }
}
