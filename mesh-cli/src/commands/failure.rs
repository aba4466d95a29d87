//! Why a verb has no answer, and the exit code of that.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::cluster::ClusterError;
use crate::render::printable;

/// Why a verb has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No answer from the socket, or an error.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An answer that this meshctl does not understand.
    #[error(
        "{end} answers in a shape that this meshctl does not know: are their versions alike? (meshctl version)"
    )]
    Shape {
        /// Who answered.
        end: String,
        /// Where it stops fitting.
        source: serde_json::Error,
    },
    /// No agent answers, and the preflight cannot be run without one.
    #[error(
        "{client}; and mesh-agent, which could check this node without it, is neither next to meshctl nor in PATH: install it"
    )]
    NoPreflight {
        /// Why no agent answers.
        client: ClientError,
    },
    /// `mesh-agent check` ran and has no report.
    #[error("{} check gave no report ({status}){}{}", .program.display(), if .stderr.is_empty() { "" } else { ": " }, .stderr)]
    Preflight {
        /// What was run.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// The last line it wrote to standard error.
        stderr: String,
    },
    /// `mesh-agent check` could not be run.
    #[error("cannot run {}", .program.display())]
    Run {
        /// What was to be run.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Nobody says whether it is ready.
    #[error("no answer from {address}: does the name resolve, and is anybody behind it?")]
    Ready {
        /// Who was asked.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No policy of the name, or several.
    #[error("{0}")]
    Policy(String),
    /// The answer is no: nothing of the name, nothing to be had.
    #[error("{0}")]
    No(String),
    /// Nobody answers, in words.
    #[error("{0}")]
    Unreachable(String),
    /// A file that the command line names.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was to be done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The command line makes no sense, in a way that clap does not see.
    #[error("{0}")]
    Usage(String),
    /// This process cannot wait for an answer.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// 1 failed, 2 usage, 3 unreachable.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_unreachable() => 3,
            Self::NoPreflight { .. } | Self::Ready { .. } | Self::Unreachable(_) => 3,
            Self::Cluster(error) if error.is_unreachable() => 3,
            Self::Usage(_) | Self::Client(ClientError::OneAlone) => 2,
            Self::Client(_)
            | Self::Cluster(_)
            | Self::Shape { .. }
            | Self::Preflight { .. }
            | Self::Run { .. }
            | Self::Policy(_)
            | Self::No(_)
            | Self::File { .. }
            | Self::Start(_)
            | Self::Output(_) => 1,
        }
    }
}

/// `error: …: cause: cause`, in one line.
pub(crate) fn complaint(failure: &Failure) -> String {
    printable(&format!("error: {}", chain(failure)))
}

/// An error and all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // Some of others' errors tell their cause's words as their own.
        if !line.ends_with(&words) {
            line.push_str(&format!(": {words}"));
        }
        cause = error.source();
    }
    line
}
