//! The one list of words for why a connection was refused, cut or not captured.
//!
//! The same word stands in the log line, the `reason` label of a metric and the JSON of `meshctl`. Kernel programs
//! count by number ([`mesh_common::Refusal`]); the agent turns the number into one of these. What lies behind a word and what
//! to do about it is in `advice`, and with the words of conditions and Events in [`crate::codes`].

use std::fmt;

use mesh_common::Refusal;
use serde::{Deserialize, Serialize};

mod advice;
#[cfg(test)]
mod tests;
mod wire;

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

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+).trim_ascii(),)+ }
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
    /// A DENY policy's rule matches.
    PolicyDenied = "policy_denied",
    /// ALLOW policies are about the destination, and none matches.
    PolicyNotAllowed = "policy_not_allowed",
    /// A policy is about the destination that this node's agent does not know: nothing is admitted.
    PolicyUnknown = "policy_unknown",
    /// The destination takes no plaintext (`mtls: Strict`).
    PlaintextRefused = "plaintext_refused",
    /// A policy refuses it, by the kernel's tables; the log line says which.
    Policy = "policy",
    /// A packet of a pod's, from an address that is not the pod's.
    SpoofedSource = "spoofed_source",
    /// A plaintext connection of a captured pod's to a peer in the mesh, around the hooks.
    Bypass = "bypass",
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

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Policies.
    Policy,
    /// Services.
    Service,
    /// Pods that are not captured, or not yet.
    Pod,
    /// What the kernel half watches over.
    Kernel,
    /// Reaching the destination.
    Reach,
    /// TLS between agents.
    Tls,
    /// Tunnels.
    Tunnel,
    /// How connections end.
    End,
}

impl Topic {
    /// All of them, in the order of the index.
    pub const ALL: [Self; 8] = [
        Self::Policy,
        Self::Service,
        Self::Pod,
        Self::Kernel,
        Self::Reach,
        Self::Tls,
        Self::Tunnel,
        Self::End,
    ];

    /// Where its reasons are said.
    pub fn seen(self) -> &'static str {
        match self {
            Self::Pod => {
                "`meshctl pods` and `weft_pods_not_captured`; what is refused meanwhile is in the access log, `weft_kernel_refused_total` and \
                 `weft_connections_failed_total`"
            }
            Self::Kernel => {
                "`weft_kernel_refused_total` and `meshctl status`; of connects that were refused, and of what an agent has seen, also the \
                 access log and `weft_connections_failed_total`"
            }
            Self::Tls => {
                "the access log, `weft_connections_failed_total` and `weft_tls_handshakes_total` (as `result`)"
            }
            Self::End => {
                "the access log, `weft_connections_closed_total` and `weft_connections_failed_total`"
            }
            Self::Service => {
                "the access log and `weft_connections_failed_total`; `weft_kernel_refused_total`, too, where the node's kernel refuses, which \
                 it does where it can"
            }
            Self::Policy => {
                "the access log and `weft_connections_failed_total` (of what was cut `weft_connections_closed_total`), by the node that \
                 refuses; what its kernel refuses is in `weft_kernel_refused_total`, too (as `policy` or `plaintext_refused`)"
            }
            Self::Reach | Self::Tunnel => {
                "the access log, `weft_connections_failed_total` and `weft_connections_closed_total`"
            }
        }
    }

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Policy => "Policies",
            Self::Service => "Services",
            Self::Pod => "Pods that are not captured, or not yet",
            Self::Kernel => "What the kernel half watches over",
            Self::Reach => "Reaching the destination",
            Self::Tls => "TLS between agents",
            Self::Tunnel => "Tunnels",
            Self::End => "How connections end",
        }
    }
}

impl Reason {
    /// What it is about.
    pub fn topic(self) -> Topic {
        advice::advice(self).topic
    }

    /// What lies behind it, for operators.
    pub fn cause(self) -> &'static str {
        advice::advice(self).cause
    }

    /// What to do about it, for operators.
    pub fn remedy(self) -> &'static str {
        advice::advice(self).remedy
    }

    /// What the application sees whose connection it was.
    pub fn client_sees(self) -> &'static str {
        advice::advice(self).client
    }

    /// Whether somebody has decided that it may not be: a policy, `mtls: Strict` or a Service's source ranges.
    pub fn is_denial(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::PolicyDenied
                | Self::PolicyNotAllowed
                | Self::PolicyUnknown
                | Self::PlaintextRefused
                | Self::SourceRange
        )
    }

    /// The policy that a verdict's words name, as `NAMESPACE/NAME`, where the reason is one that a policy gives.
    pub fn policy_in(self, words: &str) -> Option<&str> {
        if !matches!(self, Self::PolicyDenied | Self::PolicyNotAllowed | Self::PolicyUnknown) {
            return None;
        }
        let after = words.split("policy ").skip(1);
        after.filter_map(|rest| rest.split([' ', ',', ')']).next()).find(|key| key.contains('/'))
    }
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
            Refusal::Policy => Self::Policy,
            Refusal::Plaintext => Self::PlaintextRefused,
            Refusal::Spoofed => Self::SpoofedSource,
            Refusal::Bypass => Self::Bypass,
        }
    }
}
