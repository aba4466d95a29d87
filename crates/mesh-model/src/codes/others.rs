//! Words that are no reasons of connections: conditions, Events, and why the controller refuses a caller or a certificate.

use super::Code;

const CALLERS: &str =
    "`weft_controller_unauthenticated_total`, the controller's log, and the agent's (`meshctl status`)";
const SIGNING: &str =
    "`weft_controller_sign_refusals_total`, the controller's log, and `meshctl certs` on the node";
const POD_EVENT: &str = "an Event of the pod (`kubectl describe pod`), and the controller's log";

const fn code(word: &'static str, seen: &'static str, [meaning, cause, remedy]: [&'static str; 3]) -> Code {
    Code { word, seen, meaning, cause, remedy, client_sees: None }
}

/// Heading and words.
pub(super) const GROUPS: [(&str, &[Code]); 4] = [
    ("Conditions of Weft's objects", CONDITIONS),
    ("Events", EVENTS),
    ("Callers of the controller", CALLS),
    ("Certificates that are not signed", SIGNS),
];

const CONDITIONS: &[Code] = &[
    code(
        "Invalid",
        "the condition `Accepted=False` of an AuthorizationPolicy or a MeshConfig",
        [
            "The object cannot be in force as it is written.",
            "A field has a value that the API server could not refuse by itself; the condition's message names it.",
            "Correct the field that the message names. Until then what was last accepted stays in force; of a new object nothing is.",
        ],
    ),
    code(
        "TrustDomainChanged",
        "the condition `Accepted=False` of the MeshConfig",
        [
            "The MeshConfig asks for another trust domain than the mesh runs with.",
            "Every identity is made of the trust domain, so it cannot change while the mesh runs. Everything else of the object is in force.",
            "Put it back. To change it all the same, uninstall the mesh and install it with the other one.",
        ],
    ),
    code(
        "NodesPending",
        "the condition `Enforced=False` of an AuthorizationPolicy",
        [
            "Not every node that has a pod of the policy's has applied it yet.",
            "Agents acknowledge a policy when it is in their tables: within a second, as a rule. A node in the message that stays there has an \
             agent that is down or not connected.",
            "`meshctl policy wait NAMESPACE/NAME` waits for all; `meshctl status` on the node that the message names.",
        ],
    ),
    code(
        "NoPods",
        "the condition `Enforced=True` of an AuthorizationPolicy",
        [
            "The policy targets no pod of the mesh, so nothing is enforced.",
            "Its selector matches nothing, or only pods that are not in the mesh.",
            "Compare `spec.targetRefs` with the pods' labels, and `meshctl pods`. A policy without targetRefs is about its own namespace.",
        ],
    ),
    code(
        "PerhapsNotMeant",
        "the condition `Warning=True` of an AuthorizationPolicy",
        [
            "The policy is in force, and probably not what was meant.",
            "It can match nobody, or it has what only a waypoint can look at: the message says which.",
            "Read the message; docs/policy.md has the semantics that people trip over.",
        ],
    ),
    code(
        "Disconnected",
        "the condition `Connected=False` of a NodeState",
        [
            "The node's agent has no stream to a controller.",
            "The agent is down, or cannot reach the Service weft-controller, or is refused there.",
            "`kubectl -n weft-system get pods -o wide` shows the agent of the node; its log says why it is not connected.",
        ],
    ),
    code(
        "ReplicaGone",
        "the condition `Connected=False` of a NodeState",
        [
            "The replica of the controller to which the agent was connected is gone, and the agent went to no other one.",
            "The replica was stopped or its node failed, and the agent cannot reach another one.",
            "It passes when the agent connects again. If it stays: `kubectl -n weft-system get pods` for the controller, and the agent's log.",
        ],
    ),
];

const EVENTS: &[Code] = &[
    code(
        "NoAgentOnNode",
        POD_EVENT,
        [
            "The pod is labelled for the mesh, and its node has no agent that is connected.",
            "The DaemonSet weft-agent does not run there (taints, a node selector), or its agent cannot reach the controller.",
            "`kubectl -n weft-system get pods -o wide`; until there is one the pod is outside the mesh, and its peers use plaintext.",
        ],
    ),
    code(
        "NotCaptured",
        POD_EVENT,
        [
            "The pod is labelled for capture and is left alone.",
            "It shares the host's network, runs in a sandbox, or another mesh serves it; the Event has the reason's word.",
            "Look the reason up here. The label `weft.dev/capture: disabled` on the pod says that it is meant so.",
        ],
    ),
    code(
        "ContestedAddress",
        POD_EVENT,
        [
            "Two running pods claim the same address.",
            "The network plugin gave the address out twice, or one of the two is gone and the API server does not know.",
            "Delete the one that does not answer there. Until then captured pods are refused there (`contested_address`).",
        ],
    ),
    code(
        "PreCaptureSocketsReset",
        POD_EVENT,
        [
            "Connections that the pod had opened into the mesh before it was captured were reset.",
            "The pod was labelled when it started and connected before its agent was there, in plaintext.",
            "Nothing: the application's next connections go through the mesh. `spec.preCaptureSockets: keep` leaves them alone.",
        ],
    ),
    code(
        "PreCaptureSocketsKept",
        POD_EVENT,
        [
            "Connections that the pod had opened into the mesh before it was captured go on in plaintext.",
            "`spec.preCaptureSockets` of the MeshConfig is `keep`.",
            "Restart the pod to have them under mutual TLS.",
        ],
    ),
    code(
        "PreCaptureSocketsLeft",
        POD_EVENT,
        [
            "Connections that the pod had opened before it was captured could not be ended and may go on in plaintext.",
            "The kernel cannot end another's sockets (it lacks CONFIG_INET_DIAG_DESTROY).",
            "Restart the pod; `meshctl check` says what the kernel lacks.",
        ],
    ),
    code(
        "Malformed",
        "an Event of the object, and the controller's log",
        [
            "The controller cannot read an object.",
            "A field has a form that Weft does not know; the note names it.",
            "Correct the object. Its last good state, if it had one, stays in force.",
        ],
    ),
    code(
        "CutsTunnels",
        "an Event of the NetworkPolicy, and the controller's log",
        [
            "A NetworkPolicy blocks port 15008 of captured pods, so peers cannot reach them.",
            "It selects captured pods and does not allow port 15008 from where their clients are.",
            "Allow TCP 15008 beside the application's ports; docs/network-policies.md has the lines. Who may talk to whom is the \
             AuthorizationPolicy's to say.",
        ],
    ),
    code(
        "KeyCacheFailed",
        "an Event of the Node, and the agent's log",
        [
            "The agent could not do with private keys on the node's disk as `spec.keyCache` says.",
            "The directory of the agent's state is not writable, or the disk is full.",
            "Look at the node's disk and at `agent.hostPaths.state`; until then keys are where they were.",
        ],
    ),
    code(
        "TooManyExclusions",
        "an Event of the Node, and the agent's log",
        [
            "The MeshConfig excludes more than the kernel's tables hold.",
            "`spec.excludedCIDRs` or `spec.excludedPorts` is too long; the note has the numbers.",
            "Put neighbouring ranges together. Until then the exclusions from before stay in force.",
        ],
    ),
];

const CALLS: &[Code] = &[
    code(
        "no_token",
        CALLERS,
        [
            "Somebody called the controller without a bearer token.",
            "It is no Weft agent, or the agent's token file is empty.",
            "Find out by its address who calls. For an agent: is the projected volume mounted (`WEFT_TOKEN_FILE`)?",
        ],
    ),
    code(
        "unknown_token",
        CALLERS,
        [
            "The token is in nobody's name.",
            "Outside Kubernetes: the agent's token file and the controller's list of tokens differ.",
            "Write the same token into both.",
        ],
    ),
    code(
        "malformed_token",
        CALLERS,
        [
            "The token has not the form of a service account token.",
            "The agent presents another file than its projected volume's token.",
            "Look at `WEFT_TOKEN_FILE` of the agent.",
        ],
    ),
    code(
        "expired_token",
        CALLERS,
        [
            "The token has ended.",
            "Kubelet replaces it before that, so a clock is wrong, or kubelet on that node does not work.",
            "Compare the clocks (`meshctl check`), then look at kubelet's log.",
        ],
    ),
    code(
        "wrong_audience",
        CALLERS,
        [
            "The token is for somebody else.",
            "The audience of the agent's projected volume is not the controller's.",
            "Install agent and controller from the same chart and values.",
        ],
    ),
    code(
        "token_not_accepted",
        CALLERS,
        [
            "The API server does not vouch for the token.",
            "It was issued by another cluster, or its pod or service account is deleted.",
            "Restart the agent's pod to give it a new one.",
        ],
    ),
    code(
        "other_service_account",
        CALLERS,
        [
            "The token is of another service account than agents run as.",
            "Something else than an agent calls, or agents were installed under another name.",
            "Find out who runs as that account. Install agent and controller from the same chart and values.",
        ],
    ),
    code(
        "token_without_node",
        CALLERS,
        [
            "The token names no node.",
            "The API server is older than Kubernetes 1.32, whose tokens do not say where their pod runs.",
            "Upgrade the control plane.",
        ],
    ),
    code(
        "other_node",
        CALLERS,
        [
            "The token is of another node than the agent says that it is.",
            "`NODE_NAME` of the agent is wrong, or a token was carried from one node to another.",
            "Look at the agent's environment. If it is right, somebody uses a token that is not his: find out who calls.",
        ],
    ),
    code(
        "unavailable",
        CALLERS,
        [
            "Nobody could say whose the token is.",
            "The controller cannot reach the API server, or may not make TokenReviews.",
            "The controller's log has the API server's answer; docs/rbac.md has what the controller must be allowed.",
        ],
    ),
];

const SIGNS: &[Code] = &[
    code(
        "not_on_node",
        SIGNING,
        [
            "An agent asks for the identity of a service account that has no captured pod on its node.",
            "The pod has just left, or the agent has been told something else than the controller knows now.",
            "It passes when both have the same. If it stays, look at that node: it asks for what is not its own.",
        ],
    ),
    code(
        "authority",
        SIGNING,
        [
            "The controller's authority could not sign.",
            "The Secret or the files of the authority are broken, or its certificate has ended.",
            "The controller's log names what is wrong; docs/identity.md says how the authority is replaced.",
        ],
    ),
];
