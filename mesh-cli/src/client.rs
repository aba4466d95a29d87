//! One request to an admin end, and its answer: HTTP/1.1 and JSON, over whatever leads there.
//!
//! ```text
//! get(path) ──▶ transport: unix socket | mutual TLS | port-forward to a pod ──▶ HTTP/1.1 ──▶ JSON
//!                 └ all nodes: each of them, sixteen at a time
//! ```
//!
//! The errors tell apart what a script must tell apart: nobody there (exit code 3) and somebody who says no (1). Each
//! names the end and what to do. A client hears of which version the ends are that answer it, and says so where it is not its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use mesh_telemetry::api::{ErrorBody, Timestamp};
use mesh_telemetry::http::VERSION_HEADER;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::cluster::forward::Wanted;

mod date;
mod error;
#[cfg(test)]
mod tests;
mod transport;
mod version;

pub(crate) use date::parse as date;
pub(crate) use error::ClientError;
pub(crate) use transport::Transport;
pub(crate) use version::OWN as OWN_VERSION;

/// The longest answer that is read: an agent's dump of a large world is some ten megabytes. Of [`AT_ONCE`] nodes as many are read at once.
const ANSWER_LIMIT: usize = 128 * 1024 * 1024;
/// Nodes that are asked at once.
const AT_ONCE: usize = 16;

/// Asks one end, or the agents of all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    transport: Transport,
    runtime: Arc<Runtime>,
    /// For connect, request and answer together.
    timeout: Duration,
    heard: Arc<Mutex<Heard>>,
}

/// What ends say beside their answers.
#[derive(Debug, Default)]
struct Heard {
    /// Versions that are not meshctl's, and who has each.
    versions: BTreeMap<String, BTreeSet<String>>,
    /// What an end's clock said, and when that came.
    date: Option<(Timestamp, SystemTime)>,
}

/// One node's answer.
#[derive(Debug)]
pub(crate) struct FromNode {
    /// Which; `None` where one end was asked, whichever node's it is.
    pub(crate) node: Option<String>,
    /// Its answer.
    pub(crate) answer: Result<Value, ClientError>,
}

/// An answer before it is understood.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// What each end is asked.
#[derive(Clone)]
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<String>,
    /// The answer is no JSON.
    is_text: bool,
}

impl Client {
    /// Connects with the first request.
    pub(crate) fn new(transport: Transport, runtime: Arc<Runtime>, timeout: Duration) -> Self {
        Self { transport, runtime, timeout, heard: Arc::default() }
    }

    /// Who is asked, in words.
    pub(crate) fn end(&self) -> String {
        self.transport.to_string()
    }

    /// More than one end is asked.
    pub(crate) fn is_many(&self) -> bool {
        matches!(self.transport, Transport::Nodes(_))
    }

    /// GET, of JSON.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.runtime.block_on(self.json(Method::GET, path, None))
    }

    /// GET from every end that is named: one, or the agents of all nodes, in the order of their names.
    pub(crate) fn get_each(&self, path: &str) -> Result<Vec<FromNode>, ClientError> {
        self.in_order(Method::GET, path, None)
    }

    /// The same, as the answers come: who keeps only a part of each never holds all of them.
    pub(crate) fn get_each_with(&self, path: &str, take: impl FnMut(FromNode)) -> Result<(), ClientError> {
        self.each(Ask { method: Method::GET, path, body: None, is_text: false }, take)
    }

    /// The same of answers that are text: each is one string.
    pub(crate) fn get_text_each_with(
        &self,
        path: &str,
        take: impl FnMut(FromNode),
    ) -> Result<(), ClientError> {
        self.each(Ask { method: Method::GET, path, body: None, is_text: true }, take)
    }

    /// POST to every end that is named.
    pub(crate) fn post_each(&self, path: &str, body: &Value) -> Result<Vec<FromNode>, ClientError> {
        self.in_order(Method::POST, path, Some(body.to_string()))
    }

    fn in_order(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Vec<FromNode>, ClientError> {
        let mut answers = Vec::new();
        self.each(Ask { method, path, body, is_text: false }, |answer| answers.push(answer))?;
        answers.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(answers)
    }

    fn each(&self, asked: Ask<'_>, mut take: impl FnMut(FromNode)) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let Transport::Nodes(nodes) = &self.transport else {
                take(FromNode { node: None, answer: self.answer(asked).await });
                return Ok(());
            };
            let mut waiting = nodes.each(self.timeout).await?.into_iter();
            let mut asking = JoinSet::new();
            loop {
                while asking.len() < AT_ONCE
                    && let Some((node, way)) = waiting.next()
                {
                    let transport = match way {
                        Ok(transport) => transport,
                        Err(down) => {
                            let error = down.error(&Wanted::Node(node.clone()));
                            take(FromNode { node: Some(node), answer: Err(error.into()) });
                            continue;
                        }
                    };
                    let client = Self { transport, ..self.clone() };
                    let (asked, path) = (asked.clone(), asked.path.to_owned());
                    let (method, body, is_text) = (asked.method, asked.body, asked.is_text);
                    asking.spawn(async move {
                        let asked = Ask { method, path: &path, body, is_text };
                        FromNode { node: Some(node), answer: client.answer(asked).await }
                    });
                }
                match asking.join_next().await {
                    Some(answer) => answer.into_iter().for_each(&mut take),
                    None => return Ok(()),
                }
            }
        })
    }

    /// The node whose agent is asked, where it is asked by that.
    pub(crate) fn node(&self) -> Option<&str> {
        match &self.transport {
            Transport::Pod(pod) => pod.node(),
            Transport::Unix(_) | Transport::Tls(_) | Transport::Nodes(_) => None,
        }
    }

    /// How long to wait between two rounds of questions: as long as is wanted, or longer where there are many nodes.
    pub(crate) fn pace(&self, wanted: Duration) -> Duration {
        match &self.transport {
            Transport::Nodes(nodes) => wanted.max(nodes.pace()),
            Transport::Unix(_) | Transport::Tls(_) | Transport::Pod(_) => wanted,
        }
    }

    /// One line for each version of Weft that answered and is not meshctl's.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.heard().versions.iter().filter_map(|(theirs, ends)| version::warning(theirs, ends)).collect()
    }

    /// The last answer's own clock, and ours when it came.
    pub(crate) fn clocks(&self) -> Option<(Timestamp, SystemTime)> {
        self.heard().date
    }

    /// The end is on this machine, and has its clock.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.transport, Transport::Unix(_))
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, asked: Ask<'_>) -> Result<Value, ClientError> {
        let Ask { method, path, body, is_text } = asked;
        if !is_text {
            return self.json(method, path, body).await;
        }
        let reply = self.ask(method, path, body).await?;
        Ok(Value::String(String::from_utf8_lossy(&reply.body).into_owned()))
    }

    async fn json(&self, method: Method, path: &str, body: Option<String>) -> Result<Value, ClientError> {
        let reply = self.ask(method, path, body).await?;
        serde_json::from_slice(&reply.body).map_err(|source| ClientError::NotJson { end: self.end(), source })
    }

    /// An answer that is a yes.
    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Reply, ClientError> {
        let exchange = self.exchange(method, path, body);
        let reply = tokio::time::timeout(self.timeout, exchange)
            .await
            .unwrap_or_else(|_| Err(ClientError::Timeout { end: self.end(), after: self.timeout }))
            .inspect_err(|_| self.transport.forget())?;
        self.hear(&reply.headers);
        if reply.status.is_success() {
            return Ok(reply);
        }
        let message = match serde_json::from_slice::<ErrorBody>(&reply.body) {
            Ok(body) => body.error,
            Err(_) => String::from_utf8_lossy(&reply.body).trim().chars().take(200).collect(),
        };
        let (end, status) = (self.end(), reply.status);
        Err(if status == StatusCode::NOT_FOUND {
            ClientError::NoSuchPath { end, message }
        } else {
            ClientError::Answer { end, status, message }
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<Reply, ClientError> {
        let mut request = hyper::Request::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *request.uri_mut() = path.parse().map_err(|_| ClientError::Path(path.to_owned()))?;
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_static("weft"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (stream, complaint) = self.transport.dial().await?.apart();
        let broken = |source: hyper::Error| self.transport.broken(source, complaint.as_ref());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await;
        connection.abort();
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => broken(*source),
            Err(_) => ClientError::TooLong { end: self.end(), limit: ANSWER_LIMIT },
        })?;
        Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn hear(&self, headers: &HeaderMap) {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let mut heard = self.heard();
        if let Some(date) = headers.get(DATE).and_then(text).as_deref().and_then(date::parse) {
            heard.date = Some((date, SystemTime::now()));
        }
        if let Some(version) = headers.get(VERSION_HEADER).and_then(text) {
            heard.versions.entry(version).or_default().insert(self.end());
        }
    }
}
