//! The verbs, one file each: ask, choose, lay out.
//!
//! A verb returns its whole answer as a value, so that printing, broken pipes and exit codes are one place's concern
//! (`main`). Rows are read into the shared shapes of `mesh_telemetry::api` to be chosen and sorted, and kept as they
//! came for `-o json`, so that a key that this meshctl does not know yet still reaches the script.

use std::io;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::{Args, Output, Verb};
use crate::client::{Client, ClientError};
use crate::cluster::{ClusterError, Place};
use crate::render::table::Table;
use crate::render::{Style, json, printable};

mod capture;
mod certs;
mod check;
mod completion;
mod connections;
mod pods;
mod ready;
mod services;
mod status;
#[cfg(test)]
mod tests;
mod version;
mod workloads;

/// What a verb has to say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The answer itself.
    pub(crate) stdout: String,
    /// One line for people, or empty.
    pub(crate) note: String,
    /// 0 for yes, 1 for no; 3 where only half of the answer could be had.
    pub(crate) exit_code: u8,
}

/// Why a verb has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No answer from the socket, or an error.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An answer that this meshctl does not understand.
    #[error("{} answers in a shape that this meshctl does not know: are their versions alike? (meshctl version)", .socket.display())]
    Shape {
        /// Who answered.
        socket: PathBuf,
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
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// 1 failed, 3 unreachable.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.is_unreachable() => 3,
            Self::NoPreflight { .. } | Self::Ready { .. } => 3,
            Self::Cluster(error) if error.is_unreachable() => 3,
            Self::Client(_)
            | Self::Cluster(_)
            | Self::Shape { .. }
            | Self::Preflight { .. }
            | Self::Run { .. }
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
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    line
}

/// What every verb needs.
#[derive(Debug)]
struct Context {
    client: Client,
    cluster: Place,
    output: Output,
    style: Style,
}

/// A row as it came and as it is understood.
#[derive(Debug)]
struct Row<T> {
    raw: Value,
    row: T,
}

/// Does what the command line says.
pub(crate) fn run(args: &Args, style: Style) -> Result<Answer, Failure> {
    let context = Context {
        client: Client::new(&args.global.socket, args.global.timeout),
        cluster: Place::new(&args.global),
        output: args.global.output,
        style,
    };
    match &args.verb {
        Verb::Check(check) => check::run(&context, check),
        Verb::Status => status::run(&context),
        Verb::Pods(scope) => pods::run(&context, scope),
        Verb::Connections(connections) => connections::run(&context, connections),
        Verb::Certs(certs) => certs::run(&context, certs),
        Verb::Workloads(scope) => workloads::run(&context, scope),
        Verb::Services(scope) => services::run(&context, scope),
        Verb::Capture(capture) => capture::run(&context, capture),
        Verb::Ready(ready) => ready::run(ready, args.global.timeout),
        Verb::Version(version) => version::run(&context, version),
        Verb::Completion(completion) => Ok(completion::run(completion)),
    }
}

impl Answer {
    /// Yes, with something to show.
    fn yes(stdout: String) -> Self {
        Self { stdout, note: String::new(), exit_code: 0 }
    }
}

impl Context {
    /// The rows of a list.
    fn rows<T: DeserializeOwned>(&self, path: &'static str) -> Result<Vec<Row<T>>, Failure> {
        let values: Vec<Value> = self.understand(self.client.get(path)?)?;
        values.into_iter().map(|raw| Ok(Row { row: self.understand(raw.clone())?, raw })).collect()
    }

    fn understand<T: DeserializeOwned>(&self, value: Value) -> Result<T, Failure> {
        serde_json::from_value(value)
            .map_err(|source| Failure::Shape { socket: self.client.socket().into(), source })
    }

    /// A list in the form that is asked for; `nouns` is what there is none of.
    fn list<T>(&self, rows: &[Row<T>], nouns: &str, table: impl FnOnce(&[Row<T>]) -> Table) -> Answer {
        match self.output {
            Output::Json => Answer::yes(json::render(&rows.iter().map(|row| &row.raw).collect::<Vec<_>>())),
            Output::Table if rows.is_empty() => {
                Answer { stdout: String::new(), note: format!("No {nouns}."), exit_code: 0 }
            }
            Output::Table => Answer::yes(table(rows).render(self.style)),
        }
    }

    /// One value in the form that is asked for.
    fn one(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> String {
        match self.output {
            Output::Json => json::render(value),
            Output::Table => text(),
        }
    }
}

/// `NAMESPACE/NAME`, or `fallback` for who has no name.
fn named(namespace: Option<&str>, name: Option<&str>, fallback: impl ToString) -> String {
    match (namespace, name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.into(),
        _ => fallback.to_string(),
    }
}
