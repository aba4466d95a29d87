//! What lies behind a reason, what to do about it, and what the client sees.
//!
//! For operators, in plain sentences: `meshctl explain-error` and docs/errors.md show them. Here are the reasons about policies,
//! Services, pods and the kernel; those of the wire are in `wire`.

use super::{Reason, Topic, wire};

/// All that is said of a reason beside its meaning.
pub(super) struct Advice {
    pub(super) topic: Topic,
    pub(super) client: &'static str,
    pub(super) cause: &'static str,
    pub(super) remedy: &'static str,
}

pub(super) const REFUSED: &str = "`connect` fails with ECONNREFUSED (EPERM before Linux 5.18)";
pub(super) const RESET: &str =
    "`connect` succeeds, and the connection is reset (ECONNRESET) before the first byte";
const EITHER: &str = "ECONNREFUSED from `connect` where the kernel's tables of the client's node settle it; else `connect` succeeds and \
                      the connection is reset. One that was open is reset";
const WAITS: &str =
    "nothing of its own: connections of the pod are refused as `not_ready` until it is captured";
const OUTSIDE: &str = "nothing: the pod's connections go on as if there were no mesh";
const DROPPED: &str = "nothing comes back: `connect` ends in ETIMEDOUT";

pub(super) fn advice(reason: Reason) -> Advice {
    let (topic, client, cause, remedy) = match reason {
        Reason::PolicyDenied => (
            Topic::Policy,
            EITHER,
            "A rule of an AuthorizationPolicy with action DENY matches the connection. DENY goes before every ALLOW.",
            "`meshctl explain SOURCE DESTINATION:PORT` names the policy and the rule. If the connection is wanted, narrow the rule or \
             exempt the client in it (`not`).",
        ),
        Reason::PolicyNotAllowed => (
            Topic::Policy,
            EITHER,
            "At least one AuthorizationPolicy with action ALLOW is about the destination, and no rule of any of them matches the \
             client's identity, its address and the pod's port.",
            "`meshctl explain SOURCE DESTINATION:PORT` shows which policies were asked and as whom the client was seen. Add a rule for it; \
             mind that ports in rules are the pod's and not the Service's.",
        ),
        Reason::PolicyUnknown => (
            Topic::Policy,
            EITHER,
            "The destination lists a policy that this node's agent has not been told (yet), so it admits nothing there.",
            "It passes within seconds when a policy has just been made. If it stays: `meshctl status` says whether the agent is connected to \
             its controller, and the condition `Accepted` of the policy whether the controller could read it.",
        ),
        Reason::PlaintextRefused => (
            Topic::Policy,
            "ECONNREFUSED where the kernel at the destination pod settles it; else the connection is reset",
            "The client has shown no identity, and the destination port is `mtls: Strict`, or a policy about it cannot be met without \
             an identity.",
            "Take the client into the mesh (label `weft.dev/capture: enabled`), or make an exception for that port in \
             `spec.mtlsOverrides` of the MeshConfig.",
        ),
        Reason::Policy => (
            Topic::Policy,
            EITHER,
            "The kernel refused the connection by its tables of policies. Where the agent can still tell which policy it was, the access log \
             and `weft_connections_failed_total` have `policy_denied`, `policy_not_allowed` or `policy_unknown` instead; this word \
             remains where the policy has changed in the meantime, and in `weft_kernel_refused_total`.",
            "`meshctl explain SOURCE DESTINATION:PORT` says what holds now.",
        ),
        Reason::NoEndpoint => (
            Topic::Service,
            REFUSED,
            "The Service has no ready endpoint with that port in the client's address family (nor a terminating one that still serves).",
            "`meshctl endpoints NAMESPACE/SERVICE` shows what may be chosen. Look at the Service's selector, the pods' readiness, and the \
             families of the Service and the pods.",
        ),
        Reason::NoServicePort => (
            Topic::Service,
            REFUSED,
            "The address is a Service's, and the Service has no TCP port of that number.",
            "Dial a port that the Service has, or add it: `meshctl services` lists them. A pod's own port is not the Service's.",
        ),
        Reason::NoLocalEndpoint => (
            Topic::Service,
            REFUSED,
            "The Service has `internalTrafficPolicy: Local`, and none of its endpoints is on the client's node.",
            "Run an endpoint on every node that has clients (a DaemonSet), or set `internalTrafficPolicy: Cluster`.",
        ),
        Reason::SourceRange => (
            Topic::Service,
            RESET,
            "A load balancer's address was dialled, and the client's address is in none of the Service's `loadBalancerSourceRanges`.",
            "Dial the Service's cluster address or name, or add the pods' addresses to the ranges.",
        ),
        Reason::OtherProxy => (
            Topic::Service,
            RESET,
            "The Service has the label `service.kubernetes.io/service-proxy-name`, so somebody else chooses its endpoint, and one of its \
             endpoints is in the mesh. Nobody could say where the connection arrives.",
            "Take the label off, dial the pods themselves (a headless Service), or keep the endpoints out of the mesh.",
        ),
        Reason::ServiceLoop => (
            Topic::Service,
            RESET,
            "An endpoint of the Service is the address of a Service. Dialled as it is, another proxy would choose once more, in plaintext.",
            "Put pods' own addresses into the EndpointSlice, or dial the second Service by its own name.",
        ),
        Reason::NoWorld => (
            Topic::Pod,
            REFUSED,
            "The node's agent has not been told all workloads and Services yet: it has just been started for the first time, or it cannot \
             reach the controller and has no cache on the node's disk.",
            "`meshctl status` shows the link to the controller and since when; `kubectl -n weft-system logs ds/weft-agent` says why it is \
             not there.",
        ),
        Reason::NotReady => (
            Topic::Pod,
            REFUSED,
            "The pod is to be captured and is not yet, or the agent is down: a captured pod's connections are refused rather than left in \
             plaintext.",
            "`meshctl pods` says what the pod waits for. If no agent answers on that node, look at the DaemonSet weft-agent.",
        ),
        Reason::NoNetns => (
            Topic::Pod,
            WAITS,
            "The pod's sandbox has no process yet in which its network namespace could be found, or the agent could not look there.",
            "It passes when the sandbox has started. If it stays, `kubectl describe pod` says why the sandbox does not start.",
        ),
        Reason::NoAddress => (
            Topic::Pod,
            WAITS,
            "The network plugin has given the pod no address yet, or another one than the Pod object says.",
            "It passes when the pod has its address. If it stays, look at the network plugin's log on that node.",
        ),
        Reason::HostNetwork => (
            Topic::Pod,
            OUTSIDE,
            "The pod has `hostNetwork: true`: its connections cannot be told from the node's own.",
            "Run it with a network of its own, or take it out with the label `weft.dev/capture: disabled`; peers see it without identity.",
        ),
        Reason::IstioSidecar => (
            Topic::Pod,
            OUTSIDE,
            "The pod has a container or an annotation of Istio's sidecar, which redirects its connections already.",
            "Turn the injection off for it and restart the pod, or leave it to Istio.",
        ),
        Reason::LinkerdSidecar => (
            Topic::Pod,
            OUTSIDE,
            "The pod has a container or an annotation of Linkerd's proxy, which redirects its connections already.",
            "Turn the injection off for it and restart the pod, or leave it to Linkerd.",
        ),
        Reason::IstioAmbient => (
            Topic::Pod,
            OUTSIDE,
            "Istio's CNI agent has annotated the pod as redirected to ztunnel (`ambient.istio.io/redirection`).",
            "Take the pod or its namespace out of Istio's ambient mode, or leave it there: Weft reaches it at its ztunnel with the annotation \
             `weft.dev/tunnel: hbone`.",
        ),
        Reason::SandboxedRuntime => (
            Topic::Pod,
            OUTSIDE,
            "The pod's RuntimeClass is one of gVisor's or Kata's: its sockets are not the host's, and no hook sees them.",
            "Run it with the node's own runtime to have it in the mesh, or take it out with the label `weft.dev/capture: disabled`.",
        ),
        Reason::CaptureFailed => (
            Topic::Pod,
            WAITS,
            "A listener in the pod's namespace, a hook or a map entry could not be put in place. It is tried again every second.",
            "The agent's log has the system's error beside the pod. `meshctl check` looks at the kernel and at the agent's privileges.",
        ),
        Reason::UnknownPod => (
            Topic::Pod,
            REFUSED,
            "A process below kubelet's cgroup connects and neither kubelet's logs nor the controller have told the agent which pod it is. \
             Until then it may be one that is in the mesh.",
            "It passes when the API server knows the pod. What must run before that belongs into `spec.bootstrapNamespaces`; \
             `spec.unknownPods: allow` lets all of them pass.",
        ),
        Reason::ForeignNetns => (
            Topic::Kernel,
            REFUSED,
            "A process of a known pod used a socket of a network namespace that is not its pod's, for example one that a privileged \
             container has entered or made.",
            "Connect from the pod's own namespace. What has to work in others (a network plugin) belongs into a pod that is not captured.",
        ),
        Reason::NoFamily => (
            Topic::Kernel,
            REFUSED,
            "The pod dialled IPv4 and has no IPv4 address, or the same with IPv6.",
            "Dial an address of a family that the pod has, or give the pod both (dual-stack).",
        ),
        Reason::MapFull => (
            Topic::Kernel,
            "ECONNREFUSED; a direct connection whose note found no room is dropped by the guard, and ends in ETIMEDOUT",
            "A map of the kernel half has no room for one entry more: there are more connections or pods on the node than it holds.",
            "`meshctl bpf maps` shows which one, by its fill. Spread the pods over more nodes, or close idle connections; \
             entries are tried again every second.",
        ),
        Reason::NoOriginalDst => (
            Topic::Kernel,
            RESET,
            "A connection came to the agent's listener in the pod and no hook had noted where it was going: somebody dialled that port \
             himself, or the note was displaced.",
            "Nobody has to dial ports 15001, 15006 and 15008. If applications that do not are refused so, report it with \
             `meshctl support-bundle`.",
        ),
        Reason::AgentPort => (
            Topic::Kernel,
            "nothing comes back, or ECONNREFUSED; through a tunnel status 400 and a reset",
            "Ports 15001, 15006, 15008 and 15104 to 15135 of a captured pod are the agent's, and this connection came from where none may.",
            "Move the application to another port, and keep scanners off these. docs/ports.md has the list.",
        ),
        Reason::LoopbackSource => (
            Topic::Kernel,
            "nothing comes back, or ECONNREFUSED",
            "A connection to the pod's own address comes from an address that only the agent delivers from (127.0.0.0/8 or 100::/64), and \
             the agent did not make it.",
            "Bind the client in the pod to the pod's own address, or dial 127.0.0.1 itself.",
        ),
        Reason::ContestedAddress => (
            Topic::Kernel,
            RESET,
            "Two running pods claim the same address, so nobody can say who is there.",
            "`kubectl get pods -A -o wide` shows both; delete the one that does not answer there. If it comes back, the network plugin gives \
             addresses out twice.",
        ),
        Reason::SpoofedSource => (
            Topic::Kernel,
            DROPPED,
            "A packet left a pod with a source address that is not the pod's, or of a kind that a guarded pod may not send. The guard at the \
             pod's device drops it.",
            "Find out what in the pod makes packets of its own (it needs CAP_NET_RAW). What has to, belongs into a pod that is not captured.",
        ),
        Reason::Bypass => (
            Topic::Kernel,
            DROPPED,
            "A SYN in plaintext left a captured pod for a peer in the mesh around the hooks: made with a raw socket, from a namespace \
             below the pod's, or when there was no room for its note (`map_full`).",
            "Connect with an ordinary TCP socket of the pod's own. If `map_full` is counted too, see there.",
        ),
        Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::TlsHandshake
        | Reason::HandshakeTimeout
        | Reason::HandshakesFull
        | Reason::TlsVersion
        | Reason::Alpn
        | Reason::NoPeerCertificate
        | Reason::UntrustedRoot
        | Reason::CertificateExpired
        | Reason::CertificateNotYetValid
        | Reason::BadSan
        | Reason::BadCertificate
        | Reason::PeerIdentity
        | Reason::NoCertificate
        | Reason::PeerRefused
        | Reason::NoAnswer
        | Reason::TunnelBroken
        | Reason::ProtocolError
        | Reason::Flood
        | Reason::Idle
        | Reason::BadAuthority
        | Reason::ForeignAuthority
        | Reason::BadRequest
        | Reason::HeadersTooLarge
        | Reason::TooManyStreams
        | Reason::AppRefused
        | Reason::PeerSilent
        | Reason::Reset
        | Reason::Exhausted
        | Reason::Drained => return wire::advice(reason),
    };
    Advice { topic, client, cause, remedy }
}
