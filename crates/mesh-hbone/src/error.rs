//! What can go wrong on the wire, one enum per stage. `reason` gives the word for logs, metrics and JSON.

use std::error::Error;
use std::io;
use std::sync::Arc;

use mesh_identity::PeerError;
use mesh_identity::tls::{peer_error_in, tls_error_in};
use mesh_model::Reason;
use rustls::{AlertDescription, PeerIncompatible};

/// A cause that several waiters share.
pub(crate) type Cause = Arc<dyn Error + Send + Sync>;

/// Why the peer's agent could not be reached. Made by the caller's `Dial`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("the peer's agent refused the connection")]
    Refused(#[source] Arc<io::Error>),
    /// No answer in time.
    #[error("the peer's agent did not answer in time")]
    Timeout,
    /// No file descriptor, port or memory left on this node.
    #[error("out of descriptors, ports or memory")]
    Exhausted(#[source] Arc<io::Error>),
    /// Anything else that the kernel said.
    #[error("cannot connect to the peer's agent")]
    Io(#[source] Arc<io::Error>),
    /// The source pod has no valid certificate.
    #[error("no valid certificate for the source")]
    NoCertificate,
    /// The source pod is gone or the agent stops.
    #[error("the source is being released")]
    Drained,
}

impl DialError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(_) => Reason::ConnectRefused,
            Self::Timeout => Reason::ConnectTimeout,
            Self::Exhausted(_) => Reason::Exhausted,
            Self::Io(_) => Reason::ConnectFailed,
            Self::NoCertificate => Reason::NoCertificate,
            Self::Drained => Reason::Drained,
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error();
        let exhausted =
            [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL, libc::EADDRINUSE];
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(Arc::new(error)),
            io::ErrorKind::TimedOut => Self::Timeout,
            _ if errno.is_some_and(|errno| exhausted.contains(&errno)) => Self::Exhausted(Arc::new(error)),
            _ => Self::Io(Arc::new(error)),
        }
    }
}

/// Why no tunnel could be opened. Cheap to clone: all who waited for the same connection get the same cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// No TCP connection.
    #[error("no connection for the tunnel")]
    Dial(#[source] DialError),
    /// TCP, TLS and the HTTP/2 preface together took too long.
    #[error("the peer's agent did not finish the handshake in time")]
    Timeout,
    /// The peer's certificate was not accepted.
    #[error("the peer's agent has shown nothing by which it could be believed")]
    Peer(#[source] Arc<PeerError>),
    /// The TLS handshake failed otherwise.
    #[error("the TLS handshake with the peer's agent failed")]
    Tls(#[source] Cause),
    /// TLS succeeded, but the peer does not speak HTTP/2.
    #[error("the peer's agent did not agree on h2")]
    Alpn,
    /// The HTTP/2 preface failed, or the connection broke before the request was on it, twice.
    #[error("the peer's agent closed the connection")]
    Http(#[source] Cause),
    /// All connections of the key are at the peer's limit.
    #[error("all connections to the peer's agent are full")]
    Full,
    /// A header cannot be sent (a baggage or traceparent with characters that HTTP forbids).
    #[error("a header of the request is not valid")]
    Header(#[source] Cause),
}

impl OpenError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Dial(error) => error.reason(),
            Self::Timeout => Reason::ConnectTimeout,
            Self::Peer(error) => error.reason(),
            Self::Tls(error) => tls_reason(&**error),
            Self::Alpn => Reason::Alpn,
            Self::Http(_) => Reason::TunnelBroken,
            Self::Full => Reason::Exhausted,
            Self::Header(_) => Reason::BadRequest,
        }
    }

    pub(crate) fn tls(error: io::Error) -> Self {
        match peer_error_in(&error) {
            Some(peer) => Self::Peer(Arc::new(peer)),
            None => Self::Tls(Arc::new(error)),
        }
    }
}

/// Why an inbound connection did not get past its TLS handshake.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The client did not finish in time.
    #[error("the TLS handshake was not finished in time")]
    Timeout,
    /// The client's certificate was not accepted.
    #[error("the client has shown nothing by which it could be believed")]
    Peer(#[source] PeerError),
    /// The handshake failed otherwise.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The client does not speak HTTP/2.
    #[error("the client did not agree on h2")]
    Alpn,
    /// The socket's options could not be set.
    #[error("cannot set up the socket")]
    Socket(#[source] io::Error),
}

impl AcceptError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::HandshakeTimeout,
            Self::Peer(error) => error.reason(),
            Self::Tls(error) => tls_reason(error),
            Self::Alpn => Reason::Alpn,
            Self::Socket(_) => Reason::Exhausted,
        }
    }

    pub(crate) fn tls(error: io::Error) -> Self {
        match peer_error_in(&error) {
            Some(peer) => Self::Peer(peer),
            None => Self::Tls(error),
        }
    }
}

/// Why an inbound connection ended other than by the client's close or a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not send the HTTP/2 preface in time.
    #[error("the client did not send the HTTP/2 preface in time")]
    Timeout,
    /// The client is silent and does not answer PING.
    #[error("the client is gone: it does not answer")]
    Silent,
    /// The client never asked for a tunnel.
    #[error("the client made a connection and asked for nothing")]
    Unused,
    /// The client sent too much of what carries nothing.
    #[error("the client floods the connection with {0}")]
    Flood(&'static str),
    /// The client broke the rules of HTTP/2, or of TLS after the handshake.
    #[error("the client broke the protocol")]
    Protocol(#[source] h2::Error),
    /// The client did what HTTP/2 itself sets a bound to (CONTINUATION, sizes, resets).
    #[error("the client went beyond a bound of the protocol")]
    Excess(#[source] h2::Error),
    /// The connection broke.
    #[error("the HTTP/2 connection failed")]
    Http(#[source] h2::Error),
}

impl ServeError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout => Reason::HandshakeTimeout,
            Self::Unused => Reason::Idle,
            Self::Flood(_) | Self::Excess(_) => Reason::Flood,
            Self::Protocol(_) => Reason::ProtocolError,
            Self::Silent | Self::Http(_) => Reason::TunnelBroken,
        }
    }

    pub(crate) fn http(error: h2::Error) -> Self {
        let unreadable = error.get_io().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        match error.reason() {
            _ if unreadable => Self::Protocol(error),
            Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_library() => Self::Excess(error),
            Some(_) if error.is_library() => Self::Protocol(error),
            _ => Self::Http(error),
        }
    }
}

/// Why nothing more comes out of a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// The peer's agent refused the tunnel with this HTTP status.
    #[error("the peer's agent refused the tunnel with status {status}")]
    Refused {
        /// 400 bad authority, 401 or 403 policy, 503 the application cannot be reached.
        status: u16,
    },
    /// The peer reset the tunnel, as its application's RST or for a reason of its own.
    #[error("the peer reset the tunnel")]
    Reset(#[source] Cause),
    /// The connection that carried the tunnel broke or was closed under it.
    #[error("the tunnel broke")]
    Broken(#[source] Cause),
}

impl RecvError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused { .. } => Reason::PeerRefused,
            Self::Reset(_) => Reason::Reset,
            Self::Broken(cause) if cause.is::<Unanswered>() => Reason::NoAnswer,
            Self::Broken(_) => Reason::TunnelBroken,
        }
    }

    pub(crate) fn unanswered() -> Self {
        Self::Broken(Arc::new(Unanswered))
    }
}

/// The peer's agent has the CONNECT and says nothing.
#[derive(Debug, thiserror::Error)]
#[error("the peer's agent did not answer the CONNECT in time")]
struct Unanswered;

impl From<h2::Error> for RecvError {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() && error.is_remote() {
            Self::Reset(Arc::new(error))
        } else {
            Self::Broken(Arc::new(error))
        }
    }
}

/// Why nothing more goes into a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The peer reset the tunnel.
    #[error("the peer reset the tunnel")]
    Reset(#[source] Cause),
    /// The peer has said all it has to say and takes no more (RST_STREAM with NO_ERROR; RFC 9113, section 8.1). What it
    /// said is whole.
    #[error("the peer takes no more")]
    Unwanted,
    /// The connection that carried the tunnel broke or was closed under it.
    #[error("the tunnel broke")]
    Broken(#[source] Cause),
    /// This end had ended or reset the tunnel before.
    #[error("the tunnel was already ended")]
    Ended,
}

impl SendError {
    /// The one word for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Reset(_) | Self::Unwanted => Reason::Reset,
            Self::Broken(_) => Reason::TunnelBroken,
            Self::Ended => Reason::TunnelBroken,
        }
    }
}

impl From<h2::Error> for SendError {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() && error.is_remote() {
            Self::Reset(Arc::new(error))
        } else {
            Self::Broken(Arc::new(error))
        }
    }
}

/// Why a handshake failed that did not fail by a certificate's chain, name or time.
fn tls_reason(error: &(dyn Error + 'static)) -> Reason {
    use PeerIncompatible::{
        ServerDoesNotSupportTls12Or13, ServerTlsVersionIsDisabledByOurConfig,
        SupportedVersionsExtensionRequired, Tls12NotOffered, Tls12NotOfferedOrEnabled,
    };
    match tls_error_in(error) {
        Some(rustls::Error::PeerIncompatible(
            ServerDoesNotSupportTls12Or13
            | ServerTlsVersionIsDisabledByOurConfig
            | SupportedVersionsExtensionRequired
            | Tls12NotOffered
            | Tls12NotOfferedOrEnabled,
        ))
        | Some(rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)) => Reason::TlsVersion,
        Some(
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => Reason::Alpn,
        Some(rustls::Error::InvalidCertificate(_)) => Reason::BadCertificate,
        _ => Reason::TlsHandshake,
    }
}
