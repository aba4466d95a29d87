//! A small HTTP/1.1 shell for what an end says about itself.
//!
//! ```text
//! Server::unix(path) | tcp(addr) | tls(addr, …) ── serve(Routes, Shutdown) ──▶ per connection: limits ──▶ route ──▶ Response
//! ```
//!
//! Invariants: answers are whole values in memory, never streams; a request's head and body are bounded in size and
//! time, and so is the number of connections, because the TCP side is open to the node's network; every answer that
//! is not asked for is JSON `{"error": …}`; every answer says of which version of Weft it is. Who may connect may ask everything: the
//! unix socket's mode is the authorisation, or the client's certificate (`tls`), or whose loopback it is. Not here: anything on the path
//! of an application's byte.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Serialize;

use crate::api::ErrorBody;

mod crowd;
mod server;
#[cfg(test)]
mod tests;
pub mod tls;
mod unix;

pub use server::{BindError, Server};

/// The header that says of which version of Weft an answer is.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("weft-version");

/// A request as a handler sees it: read whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// The query as it was sent, without the `?`.
    pub query: Option<String>,
    /// The head's fields.
    pub headers: HeaderMap,
    /// At most 64 KiB; empty for GET.
    pub body: Bytes,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    content_type: HeaderValue,
    allow: Option<HeaderValue>,
    body: Bytes,
}

/// What a server answers, by method and path. Paths are matched whole.
#[derive(Default)]
pub struct Routes {
    by_path: HashMap<&'static str, Vec<(Method, Handler)>>,
}

type Handler = Box<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

impl Request {
    /// A field of the head as text: the first of that name, `None` where it is absent or not ASCII.
    pub fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Response {
    /// 200 with `value` as JSON. A value that cannot be written as JSON is a 500.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::whole(StatusCode::OK, HeaderValue::from_static("application/json"), body),
            Err(error) => {
                Self::error(StatusCode::INTERNAL_SERVER_ERROR, format!("answer is no JSON: {error}"))
            }
        }
    }

    /// 200 with plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::typed(HeaderValue::from_static("text/plain; charset=utf-8"), body)
    }

    /// 200 with text of another type.
    pub fn typed(content_type: HeaderValue, body: impl Into<String>) -> Self {
        Self::whole(StatusCode::OK, content_type, body.into())
    }

    /// 400: what was asked makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, message)
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::error(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// `{"error": message}`.
    pub fn error(status: StatusCode, message: impl Into<String>) -> Self {
        Self::json(&ErrorBody { error: message.into() }).with_status(status)
    }

    /// The same with another status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    fn whole(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, allow: None, body: body.into() }
    }

    fn into_hyper(self) -> hyper::Response<Full<Bytes>> {
        let mut response = hyper::Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl Routes {
    /// Answers nothing but 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET (and HEAD) on a path. The last registration of a path holds.
    pub fn get<F, Fut>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::GET, path, handler)
    }

    /// Answers POST on a path.
    pub fn post<F, Fut>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        self.on(Method::POST, path, handler)
    }

    fn on<F, Fut>(mut self, method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let handlers = self.by_path.entry(path).or_default();
        handlers.retain(|(other, _)| *other != method);
        handlers.push((method, Box::new(move |request| Box::pin(handler(request)))));
        self
    }

    /// Finds who answers, or the answer to give instead.
    fn find(&self, method: &Method, path: &str) -> Result<&Handler, Response> {
        let Some(handlers) = self.by_path.get(path) else {
            return Err(Response::error(StatusCode::NOT_FOUND, format!("no such path: {path}")));
        };
        // hyper leaves the body out of an answer to HEAD.
        let wanted = if *method == Method::HEAD { &Method::GET } else { method };
        if let Some((_, handler)) = handlers.iter().find(|(known, _)| known == wanted) {
            return Ok(handler);
        }
        let known: Vec<_> = handlers.iter().map(|(method, _)| method.as_str()).collect();
        let known = known.join(", ");
        let message = format!("{method} is not for {path}: use {known}");
        let mut response = Response::error(StatusCode::METHOD_NOT_ALLOWED, message);
        response.allow = HeaderValue::try_from(known).ok();
        Err(response)
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_path.keys()).finish()
    }
}
