//! The one list of words for why a connection was refused, cut or not captured.
//!
//! The same word stands in the log line, the `reason` label of a metric and the JSON of `meshctl`. Kernel programs
//! count by number ([`mesh_common::Refusal`]); the agent turns the number into one of these.

use std::fmt;

use mesh_common::Refusal;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Why a connection was refused or cut, or a pod not captured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $name,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];

            /// The word used everywhere.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $word,)+ }
            }

            /// The reason of a word.
            pub fn of_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Reason::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// The Service has no ready endpoint of the client's address family.
    NoEndpoint = "no_endpoint",
    /// The Service has no such port.
    NoServicePort = "no_service_port",
    /// The Service is for clients of its endpoints' own nodes (`internalTrafficPolicy: Local`), and none is on this one.
    NoLocalEndpoint = "no_local_endpoint",
    /// The client's address is in none of the Service's `loadBalancerSourceRanges`.
    SourceRange = "source_range",
    /// The Service is another proxy's than kube-proxy's, and leads to a captured pod: nobody could say where it arrives.
    OtherProxy = "other_proxy",
    /// The Service's endpoint is the address of a Service itself.
    ServiceLoop = "service_loop",
    /// The node has not been told the whole world yet.
    NoWorld = "no_world",
    /// The agent is not (yet) ready for this pod.
    NotReady = "not_ready",
    /// The pod has no network namespace of its own yet.
    NoNetns = "no_netns",
    /// The pod has no address yet.
    NoAddress = "no_address",
    /// The pod shares the host's network and cannot be captured.
    HostNetwork = "host_network",
    /// The pod has an Istio sidecar, which takes its connections already.
    IstioSidecar = "istio_sidecar",
    /// The pod has a Linkerd sidecar, likewise.
    LinkerdSidecar = "linkerd_sidecar",
    /// Istio's ambient mode redirects the pod's connections already.
    IstioAmbient = "istio_ambient",
    /// The pod runs in a sandbox with a network stack of its own (gVisor, Kata): there are no sockets to capture.
    SandboxedRuntime = "sandboxed_runtime",
    /// A kernel hook or a listener of the pod's could not be put in place.
    CaptureFailed = "capture_failed",
    /// A pod that nobody has classified yet.
    UnknownPod = "unknown_pod",
    /// A socket of a known pod's cgroup in a network namespace that is not the pod's.
    ForeignNetns = "foreign_netns",
    /// The pod has no address of the family it dialled.
    NoFamily = "no_family",
    /// A kernel map is full.
    MapFull = "map_full",
    /// No record of where an accepted connection was going.
    NoOriginalDst = "no_original_dst",
    /// A connection to one of the agent's own ports that is not from where it may come.
    AgentPort = "agent_port",
    /// A connection from loopback to the pod's own address that the agent did not make.
    LoopbackSource = "loopback_source",
    /// Two running pods claim the address.
    ContestedAddress = "contested_address",
    /// The TCP connection to the peer's agent, or to a destination outside the mesh, was refused.
    ConnectRefused = "connect_refused",
    /// It was not answered in time.
    ConnectTimeout = "connect_timeout",
    /// It failed otherwise (no route, no local port …).
    ConnectFailed = "connect_failed",
    /// The mutual TLS handshake failed otherwise than by one of the following.
    TlsHandshake = "tls_handshake",
    /// The peer did not finish the handshake in time.
    HandshakeTimeout = "handshake_timeout",
    /// More handshakes in progress than the agent takes on; this one was the oldest.
    HandshakesFull = "handshakes_full",
    /// The peer does not speak TLS 1.3.
    TlsVersion = "tls_version",
    /// The peer did not agree on `h2`.
    Alpn = "alpn",
    /// The peer showed no certificate.
    NoPeerCertificate = "no_peer_certificate",
    /// The peer's certificate does not lead to a trusted root.
    UntrustedRoot = "untrusted_root",
    /// The peer's certificate has expired, by the clock here.
    CertificateExpired = "certificate_expired",
    /// The peer's certificate is not valid yet, by the clock here.
    CertificateNotYetValid = "certificate_not_yet_valid",
    /// The peer's certificate names no workload, or more than one.
    BadSan = "bad_san",
    /// The peer's certificate cannot be read, is not for this use, or is wrongly signed.
    BadCertificate = "bad_certificate",
    /// The peer's certificate is good, and not of the expected identity or trust domain.
    PeerIdentity = "peer_identity",
    /// No valid certificate for the pod's identity.
    NoCertificate = "no_certificate",
    /// The peer's agent refused the tunnel.
    PeerRefused = "peer_refused",
    /// The peer's agent did not answer the CONNECT.
    NoAnswer = "no_answer",
    /// The tunnel broke.
    TunnelBroken = "tunnel_broken",
    /// The peer's agent broke the rules of HTTP/2, or of TLS after the handshake.
    ProtocolError = "protocol_error",
    /// The peer's agent sent more of what carries nothing than a connection may.
    Flood = "flood",
    /// The peer's agent made a connection and asked for nothing.
    Idle = "idle",
    /// A CONNECT whose authority is not an address and port.
    BadAuthority = "bad_authority",
    /// A CONNECT to an address that is not one of the pod's own.
    ForeignAuthority = "foreign_authority",
    /// A request that is no CONNECT, or cannot be read.
    BadRequest = "bad_request",
    /// A request with more headers than are taken.
    HeadersTooLarge = "headers_too_large",
    /// More requests at once than a connection may have.
    TooManyStreams = "too_many_streams",
    /// The application does not listen there.
    AppRefused = "app_refused",
    /// Nothing is heard any more from the host at the other end of a plaintext connection.
    PeerSilent = "peer_silent",
    /// The connection was reset by one of its ends.
    Reset = "reset",
    /// Out of file descriptors, ports or memory.
    Exhausted = "exhausted",
    /// The pod left the node or the agent stopped.
    Drained = "drained",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownPod => Self::UnknownPod,
            Refusal::NotReady => Self::NotReady,
            Refusal::NoWorld => Self::NoWorld,
            Refusal::ForeignNetns => Self::ForeignNetns,
            Refusal::NoFamily => Self::NoFamily,
            Refusal::NoEndpoint => Self::NoEndpoint,
            Refusal::NoServicePort => Self::NoServicePort,
            Refusal::NoLocalEndpoint => Self::NoLocalEndpoint,
            Refusal::MapFull => Self::MapFull,
            Refusal::AgentPort => Self::AgentPort,
            Refusal::LoopbackSource => Self::LoopbackSource,
            Refusal::NoListener => Self::NotReady,
            Refusal::NoOriginalDst => Self::NoOriginalDst,
        }
    }
}
