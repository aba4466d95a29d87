//! What a CONNECT says: the destination in `:authority`, the client in `forwarded` (RFC 7239), the source workload in
//! `baggage` and the trace in `traceparent` (W3C), in the forms that ztunnel sends.
//!
//! Pure. `forwarded` and `traceparent` differ in each request and are marked as not to be indexed, so that they do not
//! push `baggage`, which is the same in all requests of a connection, out of the compression table.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::OpenError;
use crate::error::Cause;

#[cfg(test)]
mod tests;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the client end asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The address and port of the application, as its client dialled it or as routing chose it.
    pub authority: SocketAddr,
    /// The application that dialled: its own address and port, which the destination shows to its application.
    pub client: SocketAddr,
    /// Who the source is: `k8s.cluster.name=…,k8s.namespace.name=…,k8s.KIND.name=…,service.name=…,service.version=…`,
    /// as far as known. Informational: the destination believes the certificate only.
    pub baggage: Option<String>,
    /// W3C trace context, where there is one.
    pub traceparent: Option<String>,
}

/// What the server end read out of a CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConnectHead {
    pub(crate) authority: SocketAddr,
    pub(crate) forwarded_for: Option<SocketAddr>,
    pub(crate) baggage: Option<String>,
    pub(crate) traceparent: Option<String>,
}

impl ConnectRequest {
    pub(crate) fn to_http(&self) -> Result<Request<()>, OpenError> {
        let header = |cause: Cause| OpenError::Header(cause);
        let uri = Uri::from_maybe_shared(Bytes::from(self.authority.to_string()))
            .map_err(|error| header(Arc::new(error)))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        if let Some(baggage) = &self.baggage {
            let value = HeaderValue::from_str(baggage).map_err(|error| header(Arc::new(error)))?;
            headers.insert(BAGGAGE, value);
        }
        // Quoted always: a port's colon and IPv6's brackets are no token characters (RFC 7239, section 4).
        let forwarded = format!("for=\"{}\"", canonical(self.client));
        let mut value = HeaderValue::from_str(&forwarded).map_err(|error| header(Arc::new(error)))?;
        value.set_sensitive(true);
        headers.insert(FORWARDED, value);
        if let Some(traceparent) = &self.traceparent {
            let mut value = HeaderValue::from_str(traceparent).map_err(|error| header(Arc::new(error)))?;
            value.set_sensitive(true);
            headers.insert(TRACEPARENT, value);
        }
        Ok(request)
    }
}

impl ConnectHead {
    /// Reads a CONNECT. The error is the authority that is no address and port.
    pub(crate) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, String> {
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let authority = match authority.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => address,
            _ => return Err(authority.to_owned()),
        };
        let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::to_owned);
        Ok(Self {
            authority: canonical(authority),
            forwarded_for: headers.get(FORWARDED).and_then(|value| forwarded_for(value.to_str().ok()?)),
            baggage: text(&BAGGAGE),
            traceparent: text(&TRACEPARENT),
        })
    }
}

/// The address in the first `for=` of a `Forwarded` header, quoted or not. Port 0 where none is given; none where it is
/// obfuscated or unknown.
fn forwarded_for(value: &str) -> Option<SocketAddr> {
    let first = value.split(',').next()?;
    let pair = first.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })?;
    let node = pair.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(pair);
    if let Ok(address) = node.parse::<SocketAddr>() {
        return Some(canonical(address));
    }
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    bare.parse::<IpAddr>().ok().map(|ip| canonical(SocketAddr::new(ip, 0)))
}

/// An IPv4 address is IPv4, also where a socket of the other family reported it.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
