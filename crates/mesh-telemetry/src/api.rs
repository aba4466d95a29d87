//! The JSON of the admin sockets: what an agent or a controller answers and `meshctl` prints.
//!
//! These shapes are scripted against: a key, once there, keeps its name and meaning, is always present, and is `null`
//! where there is nothing to say. Keys may be added. Times are RFC 3339 in UTC; reasons are [`Reason`]'s words;
//! identities are SPIFFE IDs. `meshctl check`'s shape is [`crate::preflight::Report`], readiness is
//! [`crate::readiness::Readiness`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use mesh_model::{Identity, PodState, Reason, Tunnel, Uid, Workload};
use serde::{Deserialize, Serialize};

mod bpf;
mod config;
mod endpoints;
mod log_level;
mod policies;
mod refusals;
mod services;
mod talkers;
#[cfg(test)]
mod tests;
mod timestamp;
mod world;

pub use bpf::{BpfEntries, BpfEntry, BpfMapRow, BpfProgramRow, BpfSummary};
pub use config::{ConfigDump, SettingRow};
pub use endpoints::{ChoiceRow, Choices, PodName};
pub use log_level::{LogLevel, SetLogLevel};
pub use policies::{ConditionRow, PolicyRow};
pub use refusals::{RefusalEvent, RefusalRow, Refusals, RefusedDestination, RefusedSource};
pub use services::{EndpointRow, PortRow, ServiceRow};
pub use talkers::{Talker, TalkerPair, TalkerRow};
pub use timestamp::{NoTimestamp, Timestamp};
pub use world::{DumpedService, DumpedWorkload, ObservedRow, WorldDump};

/// Where an agent's admin socket is unless told otherwise.
pub const AGENT_SOCKET: &str = "/run/weft/agent.sock";

/// The port on an end's own loopback where the chart has the admin routes answer, for pods/portforward.
pub const ADMIN_PORT: u16 = 15000;

/// Paths on the admin sockets, all GET unless they say otherwise.
pub mod path {
    /// [`super::Status`] on an agent, [`super::ControllerStatus`] on a controller.
    pub const STATUS: &str = "/v1/status";
    /// `[`[`super::PodRow`]`]`
    pub const PODS: &str = "/v1/pods";
    /// `[`[`super::ConnectionRow`]`]`
    pub const CONNECTIONS: &str = "/v1/connections";
    /// `[`[`super::CertRow`]`]`
    pub const CERTS: &str = "/v1/certs";
    /// [`super::TrustBundle`]
    pub const ROOTS: &str = "/v1/roots";
    /// [`crate::preflight::Report`]
    pub const CHECK: &str = "/v1/check";
    /// `[`[`super::WorkloadRow`]`]`
    pub const WORKLOADS: &str = "/v1/workloads";
    /// `[`[`super::ServiceRow`]`]`
    pub const SERVICES: &str = "/v1/services";
    /// `[`[`super::PolicyRow`]`]`, on an agent and on a controller
    pub const POLICIES: &str = "/v1/policies";
    /// [`super::WorldDump`], on a controller
    pub const WORLD: &str = "/v1/world";
    /// [`mesh_model::explain::Explanation`]; `?src=SOURCE&dst=DESTINATION:PORT`
    pub const EXPLAIN: &str = "/v1/explain";
    /// [`super::Choices`]; `?service=NAMESPACE/NAME`, `?namespace=NAMESPACE`
    pub const ENDPOINTS: &str = "/v1/endpoints";
    /// [`super::ConfigDump`]
    pub const CONFIG: &str = "/v1/config";
    /// [`super::LogLevel`], on an agent and on a controller; POST: [`super::SetLogLevel`]
    pub const LOG_LEVEL: &str = "/v1/log-level";
    /// [`super::Refusals`]; `?after=SEQ&limit=N`, or `?after=NODE:SEQ,NODE:SEQ` asked of several
    pub const REFUSALS: &str = "/v1/refusals";
    /// `[`[`super::TalkerRow`]`]`
    pub const TALKERS: &str = "/v1/talkers";
    /// [`super::BpfSummary`]
    pub const BPF: &str = "/v1/bpf";
    /// [`super::BpfEntries`]; `?map=NAME&limit=N`
    pub const BPF_ENTRIES: &str = "/v1/bpf/entries";
    /// Plain text `ok`: the process answers.
    pub const HEALTHZ: &str = "/healthz";
    /// [`crate::readiness::Readiness`], 200 or 503; on the readiness port.
    pub const READYZ: &str = "/readyz";
    /// The metrics; on the metrics port.
    pub const METRICS: &str = "/metrics";
}

/// Every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, in one line, with the remedy where there is one.
    pub error: String,
}

/// A pod of the agent's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// Kubernetes namespace; `null` for a pod that nobody has classified.
    pub namespace: Option<String>,
    /// Pod name; `null` likewise.
    pub name: Option<String>,
    /// From the pod's cgroup.
    pub uid: Uid,
    /// The agent's node.
    pub node: String,
    /// What the node does with the pod's connections.
    pub state: PodState,
    /// Why it is not captured; `null` for a captured pod and for one without the label.
    pub reason: Option<Reason>,
    /// Who it is; `null` for a pod that nobody has classified.
    pub identity: Option<Identity>,
}

/// A connection that the agent carries, or that the kernel carries by its leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Unique while the agent runs; below 2^53.
    pub id: u64,
    /// Seen from the pod on this node.
    pub direction: Direction,
    /// Which way its bytes go.
    pub path: ConnectionPath,
    /// What protects them.
    pub security: Security,
    /// Who dialled.
    pub src: SourceEnd,
    /// Who was dialled.
    pub dst: DestinationEnd,
    /// Bytes of the application, from `src` to `dst`.
    pub bytes_sent: u64,
    /// Bytes of the application, from `dst` to `src`.
    pub bytes_received: u64,
}

/// The end of a connection that dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEnd {
    /// Of the pod, where it is one of the mesh's.
    pub namespace: Option<String>,
    /// Of the pod, likewise.
    pub name: Option<String>,
    /// Who it has shown to be, or whom the kernel vouches for; `null` where nobody knows.
    pub identity: Option<Identity>,
    /// As the application on the other end sees it.
    pub addr: SocketAddr,
}

/// The end of a connection that was dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationEnd {
    /// Of the pod and the Service.
    pub namespace: Option<String>,
    /// Of the pod, where it is one of the mesh's.
    pub name: Option<String>,
    /// Name of the Service, where the client dialled one.
    pub service: Option<String>,
    /// Who it has shown to be, or whom the kernel vouches for; `null` where nobody knows.
    pub identity: Option<Identity>,
    /// The endpoint's own address, not the Service's.
    pub addr: SocketAddr,
}

/// A connection seen from the pod on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The pod dialled.
    Outbound,
    /// The pod was dialled.
    Inbound,
}

/// Which way a connection's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionPath {
    /// Through a tunnel between two agents.
    Tunnel,
    /// From kernel to kernel on one node.
    Direct,
    /// In plain text to or from a pod of the mesh.
    Plaintext,
    /// In plain text to what is outside the mesh.
    Passthrough,
}

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Mutual TLS.
    Mtls,
    /// Nothing.
    Plaintext,
    /// It never leaves the node, and the kernel vouches for both ends.
    Kernel,
}

/// The certificate of one identity on the agent's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRow {
    /// Whose.
    pub identity: Identity,
    /// Lower-case hexadecimal; `null` while there is no certificate.
    pub serial: Option<String>,
    /// The issuer's distinguished name; `null` likewise.
    pub issuer: Option<String>,
    /// `null` likewise.
    pub not_before: Option<Timestamp>,
    /// `null` likewise.
    pub not_after: Option<Timestamp>,
    /// Where it is in its life.
    pub state: CertState,
    /// Why the last attempt to get one failed; `null` after one that worked.
    pub last_error: Option<String>,
    /// When it is asked for next: at its renewal, or sooner after a failure; `null` before the first answer.
    #[serde(default)]
    pub next: Option<Timestamp>,
}

/// Whom the agent trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustBundle {
    /// The file that says so.
    pub file: String,
    /// Why its newest state is not in force; `null` for a good one.
    pub error: Option<String>,
    /// In force; the first of them is the one that signs.
    pub roots: Vec<RootRow>,
}

/// A trust anchor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRow {
    /// Its distinguished name.
    pub subject: String,
    /// SHA-256, lower-case hexadecimal.
    pub fingerprint: String,
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last moment.
    pub not_after: Timestamp,
}

/// Where a certificate is in its life, in the words of `mesh_identity::CertState`, whose JSON this reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertState {
    /// Valid, renewal not due.
    Valid,
    /// Valid, but it should have been renewed already.
    Expiring,
    /// No longer valid: connections of this identity are refused.
    Expired,
    /// Asked for, no answer yet.
    Pending,
    /// There never was one, and asking failed.
    Failed,
}

/// A workload as the agent was told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadRow {
    /// Unique over the mesh and over time.
    pub uid: Uid,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// `null` while it is not scheduled.
    pub node: Option<String>,
    /// The pod's own.
    pub addresses: Vec<IpAddr>,
    /// Who it is.
    pub identity: Identity,
    /// The operator wants it in the mesh.
    pub enrolled: bool,
    /// How its peers reach it.
    pub tunnel: Tunnel,
}

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its node.
    pub node: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Its stream to the controller.
    pub controller: ControllerLink,
    /// What it was told.
    pub world: WorldSummary,
    /// The node's pods, counted by state.
    pub pods: PodCounts,
    /// The kernel half.
    pub kernel: KernelSummary,
    /// Whole seconds since the agent started.
    pub uptime_seconds: u64,
}

/// An agent's stream to its controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerLink {
    /// As it was configured.
    pub address: String,
    /// There is one now.
    pub connected: bool,
    /// When it came up or, while it is down, when it went; `null` before the first attempt.
    pub since: Option<Timestamp>,
    /// Why the last attempt failed or the last stream ended; `null` while all is well.
    pub last_error: Option<String>,
}

/// How much an agent was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldSummary {
    /// A whole snapshot was applied (or loaded from the node's disk).
    pub complete: bool,
    /// How many.
    pub workloads: u64,
    /// How many.
    pub services: u64,
    /// How many seconds old the world is that was loaded from the node's disk; `null` once the controller has told it all.
    #[serde(default)]
    pub cached_seconds: Option<u64>,
}

/// Pods of a node by [`PodState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCounts {
    /// In the mesh.
    pub captured: u64,
    /// To be captured, not ready.
    pub pending: u64,
    /// Outside the mesh.
    pub excluded: u64,
    /// Not classified.
    pub unknown: u64,
}

/// The kernel half of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSummary {
    /// Every program that should be attached.
    pub hooks: Vec<HookRow>,
    /// Connections that the kernel refused since the maps were made, by reason.
    pub refused: BTreeMap<Reason, u64>,
}

/// A kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRow {
    /// As bpftool shows it.
    pub name: String,
    /// It is attached, as of the last look.
    pub attached: bool,
}

/// What a controller says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// The controller's version.
    pub version: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// Every agent that has come since it started.
    pub agents: Vec<AgentRow>,
    /// How many it knows.
    pub workloads: u64,
    /// How many it knows.
    pub services: u64,
    /// Every file it reads.
    pub files: Vec<FileRow>,
}

/// An agent as its controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its node.
    pub node: String,
    /// It has a stream now.
    pub connected: bool,
    /// The agent's version; `null` where it did not say.
    pub version: Option<String>,
    /// The last update that it acknowledged; `null` before the first.
    pub acked: Option<String>,
    /// How many updates it was sent and has not acknowledged, or is still to be sent.
    pub behind: u64,
    /// Why it refused an update, in its own words; `null` once it has acknowledged everything.
    #[serde(default)]
    pub refused: Option<String>,
}

/// A file that the controller reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    /// Which.
    pub path: String,
    /// Why its last good state is in force, with the line; `null` for a good file.
    pub error: Option<String>,
}

impl Direction {
    /// The word used in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl ConnectionPath {
    /// The word used in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Direct => "direct",
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
        }
    }
}

impl Security {
    /// The word used in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plaintext => "plaintext",
            Self::Kernel => "kernel",
        }
    }
}

impl CertState {
    /// The word used in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

impl From<&Workload> for WorkloadRow {
    fn from(workload: &Workload) -> Self {
        Self {
            uid: workload.uid.clone(),
            namespace: workload.namespace.to_string(),
            name: workload.name.to_string(),
            node: (!workload.node.is_empty()).then(|| workload.node.to_string()),
            addresses: workload.addresses.clone(),
            identity: workload.identity.clone(),
            enrolled: workload.enrolled,
            tunnel: workload.tunnel,
        }
    }
}

impl PodCounts {
    /// Counts one pod.
    pub fn add(&mut self, state: PodState) {
        match state {
            PodState::Captured => self.captured += 1,
            PodState::Pending => self.pending += 1,
            PodState::Excluded => self.excluded += 1,
            PodState::Unknown => self.unknown += 1,
        }
    }
}
