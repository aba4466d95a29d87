//! Why there is no answer, and whether anybody was there.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use mesh_telemetry::http::tls::TlsError;

use crate::cluster::ClusterError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The file is not there.
    #[error(
        "no socket at {}: is the agent running on this node? (--socket names another socket, --node an agent of the cluster)",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// The process is not there.
    #[error("nobody listens on {end}: {remedy}")]
    Refused {
        /// Who was asked.
        end: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Not for this user.
    #[error("permission denied on {}: run meshctl as root", .0.display())]
    Denied(PathBuf),
    /// Connected, or about to, and no answer in time.
    #[error(
        "no answer on {end} within {} s: the process hangs or is overloaded (see its log; --timeout waits longer)",
        .after.as_secs_f32()
    )]
    Timeout {
        /// Who was asked.
        end: String,
        /// How long it was waited.
        after: Duration,
    },
    /// Any other error of connect.
    #[error("cannot connect to {end}")]
    Connect {
        /// Who was asked.
        end: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is shown to --address, or what it is checked against, cannot be used.
    #[error("no TLS with what --cert, --key and --ca name")]
    Files(#[source] TlsError),
    /// The other end is not who it should be, or no end of TLS.
    #[error(
        "{end} is not who it should be: does its certificate lead to --ca, and is it for {name}? (--server-name)"
    )]
    NotThem {
        /// Who was asked.
        end: String,
        /// The name that its certificate should have.
        name: String,
        /// What TLS said.
        source: io::Error,
    },
    /// The other end does not accept our certificate.
    #[error(
        "{end} does not let this certificate in ({alert}): is it in date, and signed by what its --admin-client-ca names?"
    )]
    NotLetIn {
        /// Who was asked.
        end: String,
        /// TLS's word.
        alert: String,
    },
    /// Connected, and then no HTTP answer.
    #[error("{end} broke off: is it an admin end of Weft, and is its process still running?")]
    Broken {
        /// Who was asked.
        end: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// An end that has no such path: most likely it is a controller, or an older one.
    #[error(
        "{end} does not answer this: {message} (a controller answers status, policies and what else is its own; an older agent \
        may not know it: meshctl version)"
    )]
    NoSuchPath {
        /// Who was asked.
        end: String,
        /// What it said.
        message: String,
    },
    /// It says no.
    #[error("{end} answers {status}: {message}")]
    Answer {
        /// Who was asked.
        end: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// The answer is no JSON.
    #[error("{end} does not answer in JSON: is it an admin end of Weft?")]
    NotJson {
        /// Who was asked.
        end: String,
        /// Where it stops being JSON.
        source: serde_json::Error,
    },
    /// It goes on and on.
    #[error("{end} answers with more than {limit} bytes")]
    TooLong {
        /// Who was asked.
        end: String,
        /// What is read at most.
        limit: usize,
    },
    /// The way through the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A verb that asks one end was given many.
    #[error("this is asked of one agent: name its node with --node")]
    OneAlone,
    /// It cannot be asked for like that.
    #[error("{0:?} cannot be asked for")]
    Path(String),
}

impl ClientError {
    /// Nobody answers, as opposed to an answer that is an error.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::NoSocket(_)
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Connect { .. }
            | Self::Broken { .. } => true,
            Self::Cluster(error) => error.is_unreachable(),
            // Somebody may be there: it is this user who may not ask.
            Self::Denied(_)
            | Self::NoSuchPath { .. }
            | Self::Files(_)
            | Self::NotThem { .. }
            | Self::NotLetIn { .. }
            | Self::Answer { .. }
            | Self::NotJson { .. }
            | Self::TooLong { .. }
            | Self::OneAlone
            | Self::Path(_) => false,
        }
    }
}
