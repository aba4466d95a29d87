//! The same of what goes wrong on the wire: reaching the destination, TLS between agents, tunnels, and ends of connections.

use super::advice::{Advice, RESET};
use super::{Reason, Topic};

const BY_PEER: &str = "the side that refuses closes with a TLS alert; the application at the other end is reset before the first byte";
const ENDED: &str = "an open connection is reset (ECONNRESET)";
const PEER_AGENT: &str = "no application, as a rule: it is about the other agent. Its applications are reset before the first byte";

pub(super) fn advice(reason: Reason) -> Advice {
    let (topic, client, cause, remedy) = match reason {
        Reason::ConnectRefused => (
            Topic::Reach,
            RESET,
            "The agent dialled the peer's agent at port 15008, or a destination outside the mesh, and was refused: nobody listens there.",
            "For a pod of the mesh: `meshctl pods` on its node; is it still captured, is its agent up? Outside the mesh: does the \
             server run?",
        ),
        Reason::ConnectTimeout => (
            Topic::Reach,
            "`connect` succeeds, and the connection is reset after 30 s at the latest",
            "The TCP connection to the peer's agent at port 15008, or to a destination outside the mesh, was not answered, or the peer's \
             agent did not finish the handshake in time. Something drops the packets.",
            "`meshctl check` names NetworkPolicies that block port 15008 (docs/network-policies.md says what they must allow); then look at \
             the network between the two nodes.",
        ),
        Reason::ConnectFailed => (
            Topic::Reach,
            "`connect` fails as without a mesh, or succeeds and the connection is reset",
            "The connection to the destination could not be made for another cause, which the log line names: no route, the network is \
             down. Of connections that no agent carries: the destination did not answer or refused.",
            "Read `detail` in the access log; then look at routes from that pod: `kubectl exec POD -- ip route get ADDRESS`.",
        ),
        Reason::AppRefused => (
            Topic::Reach,
            RESET,
            "The destination's agent admitted the connection, and the application in the pod does not listen at that address and port.",
            "Is the application up, and does it listen at the pod's address and not at 127.0.0.1 alone? `kubectl exec POD -- ss -ltn`.",
        ),
        Reason::TlsHandshake => (
            Topic::Tls,
            BY_PEER,
            "The peer at port 15008 does not speak TLS, or broke the handshake off with an alert that has no word of its own.",
            "Read `detail` in the access log of both nodes. Something that answers at 15008 and is no Weft agent is the usual cause.",
        ),
        Reason::HandshakeTimeout => (
            Topic::Tls,
            BY_PEER,
            "Somebody connected to port 15008 and did not finish TLS or the HTTP/2 preface within 10 s.",
            "A scanner or a health check that only connects does this: keep it off 15008. If it is an agent, its node is starved or \
             packets are lost.",
        ),
        Reason::HandshakesFull => (
            Topic::Tls,
            BY_PEER,
            "More than 1,024 handshakes at one pod (8,192 on the node) were unfinished, and this one was the oldest. Somebody opens \
             connections to 15008 and is silent.",
            "The access log has the addresses they come from; keep those off with a NetworkPolicy that allows 15008 from pods of the mesh alone.",
        ),
        Reason::TlsVersion => (
            Topic::Tls,
            BY_PEER,
            "The peer offers no TLS 1.3.",
            "It is no Weft agent and no ztunnel of this decade: find out by its address who it is.",
        ),
        Reason::Alpn => (
            Topic::Tls,
            BY_PEER,
            "The peer speaks TLS and did not agree on HTTP/2 (ALPN `h2`).",
            "Who is at port 15008 there? Something else than an agent listens, or a proxy between the nodes ends TLS.",
        ),
        Reason::NoPeerCertificate => (
            Topic::Tls,
            BY_PEER,
            "The peer finished TLS without showing a certificate.",
            "It is no agent of this mesh: find out by its address who dials port 15008, and keep it off.",
        ),
        Reason::UntrustedRoot => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate leads to no root that this node trusts: it is another mesh's, or one of the two nodes has not got the \
             newest roots.",
            "Compare `meshctl certs --roots` of both nodes. docs/identity.md says in which order roots are replaced.",
        ),
        Reason::CertificateExpired => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate has ended by the clock here: its agent could not renew it, or one of the clocks is wrong.",
            "`meshctl certs` on the peer's node shows the last error of the renewal; `meshctl check` compares the clocks.",
        ),
        Reason::CertificateNotYetValid => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate begins in the future by the clock here: a clock is wrong, this node's or the controller's.",
            "`meshctl check` compares the clocks; `detail` has the certificate's times. Set up NTP on the node that is off.",
        ),
        Reason::BadSan => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate has no SPIFFE ID of the form spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or more than one.",
            "It was not issued by this mesh's controller. If you bring an authority of your own, let the controller sign with it and \
             nobody else.",
        ),
        Reason::BadCertificate => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate cannot be read, is not for this use, is wrongly signed, or the peer does not have its key.",
            "`detail` says which. Restart the peer's agent to have it ask for a new one; if it stays, look at the authority's \
             certificate (is it a CA, may it sign?).",
        ),
        Reason::PeerIdentity => (
            Topic::Tls,
            BY_PEER,
            "The peer's certificate is good and another workload's than was dialled, or of another trust domain: the address has changed \
             hands and one side does not know yet, or somebody pretends.",
            "It passes within seconds after a pod was replaced. If it stays, `detail` has both identities: who is at that address?",
        ),
        Reason::NoCertificate => (
            Topic::Tls,
            "the connection is reset; a pod that waits for its first certificate is refused as `not_ready`",
            "The agent has no valid certificate for the pod's identity: none was issued yet, or the last one ended and could not be renewed.",
            "`meshctl certs` has the last error and when it is tried again; `weft_controller_sign_refusals_total` and the controller's log \
             say why it did not sign.",
        ),
        Reason::PeerRefused => (
            Topic::Tunnel,
            RESET,
            "The destination's agent answered the tunnel's CONNECT with an error: 400 a port or address that is not the pod's, 401 or 403 a \
             policy, 503 the application cannot be reached.",
            "The status is in `detail`; the destination node's access log has the same connection with the reason itself: `meshctl logs`.",
        ),
        Reason::NoAnswer => (
            Topic::Tunnel,
            "`connect` succeeds, and the connection is reset after 40 s",
            "The destination's agent has the CONNECT and answered nothing within 40 s: it is overloaded, or no Weft agent.",
            "Look at the CPU of that node's agent, and at `weft_handshakes_pending` and `weft_runtime_*` there.",
        ),
        Reason::TunnelBroken => (
            Topic::Tunnel,
            ENDED,
            "The connection between the two agents that carried it was lost: the other agent or node went away or was restarted, or nothing \
             was heard of it for 30 s.",
            "One at a time is a restart (agents' upgrades do this): let clients connect again. Many of them, to one node: look at that node \
             and the network to it.",
        ),
        Reason::ProtocolError => (
            Topic::Tunnel,
            PEER_AGENT,
            "The peer sent frames that HTTP/2 forbids, or broken records after the TLS handshake.",
            "Are both agents of versions that go together (`meshctl version`)? If so, report it with `meshctl support-bundle`.",
        ),
        Reason::Flood => (
            Topic::Tunnel,
            PEER_AGENT,
            "The peer sent more PING, SETTINGS, RST_STREAM, CONTINUATION or empty frames, or requests that it takes back, than a connection may.",
            "No agent does this of itself. `source` in the access log says whose certificate it was: look into that workload and its node.",
        ),
        Reason::Idle => (
            Topic::Tunnel,
            PEER_AGENT,
            "A peer made a connection with a good certificate and asked for no tunnel within 20 s.",
            "A single one is a client that gave up. Many, from one workload: look into it, it holds descriptors of this node.",
        ),
        Reason::BadAuthority => (
            Topic::Tunnel,
            PEER_AGENT,
            "A CONNECT names no address and port (perhaps a host name).",
            "The client is no Weft agent: tunnels are asked for by address. `source` says whose certificate it has.",
        ),
        Reason::ForeignAuthority => (
            Topic::Tunnel,
            PEER_AGENT,
            "A CONNECT asks a pod for an address that is not the pod's own; agents are no open proxies.",
            "It passes when a pod was replaced and the client's node does not know yet. If it stays, `source` says who asks.",
        ),
        Reason::BadRequest => (
            Topic::Tunnel,
            PEER_AGENT,
            "A request at port 15008 is no CONNECT, or has headers that HTTP/2 does not allow. In `weft_controller_sign_refusals_total`: a request for a \
             certificate that cannot be read, or is for another identity than its own.",
            "Something sends ordinary HTTP to port 15008: dial the application's port instead.",
        ),
        Reason::HeadersTooLarge => (
            Topic::Tunnel,
            PEER_AGENT,
            "A request at port 15008 has more than 16 KiB of headers.",
            "A Weft agent sends a few hundred bytes. `source` says whose certificate the client has.",
        ),
        Reason::TooManyStreams => (
            Topic::Tunnel,
            PEER_AGENT,
            "The peer asks for more than 1,000 tunnels at once on one connection, or gives them up faster than they end.",
            "A Weft agent keeps to the limit it was told. `source` says whose certificate the client has.",
        ),
        Reason::PeerSilent => (
            Topic::End,
            ENDED,
            "Nothing was heard for 20 s or more from the host at the other end of a plaintext connection that the agent carries.",
            "The host, or the way to it, is gone. A firewall that forgets idle connections does this, too: turn TCP keepalive on.",
        ),
        Reason::Reset => (
            Topic::End,
            "one end sees what the other did: ECONNRESET",
            "One of the two applications reset the connection: it closed with unread data, set SO_LINGER to zero, or was killed.",
            "Nothing of the mesh's. If it was not meant, look at the application that had more to read when it closed.",
        ),
        Reason::Exhausted => (
            Topic::End,
            RESET,
            "The agent had no file descriptor, local port or memory left, or all 64 connections to the peer's agent were full.",
            "`process_open_fds` against `process_max_fds` shows the first; raise LimitNOFILE of the container runtime. Else spread clients over more \
             pods: to one destination a node has 64 × 1,000 tunnels, and as many ports as there are.",
        ),
        Reason::Drained => (
            Topic::End,
            ENDED,
            "The agent stopped, or the pod left the node, while the connection was open.",
            "Nothing is wrong: let clients connect again. `agent.maxUnavailable` bounds how many nodes do this at once in an upgrade.",
        ),
        // Not of the wire: `advice` answers for them.
        _ => (Topic::End, "", "", ""),
    };
    Advice { topic, client, cause, remedy }
}
