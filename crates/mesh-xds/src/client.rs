//! The agent's end of the wire: one task that keeps a stream to the controller and survives its absence.
//!
//! ```text
//!            ┌────────── backoff 100 ms … 10 s ◀────────────┐
//!            ▼                                               │ lost, refused, unreachable
//!   roots, token re-read ─▶ TCP, TLS 1.3 ─▶ Hello ─▶ Connected ─▶ Delta ─▶ Event::Update ─▶ ack/nack ─▶ …
//!                                              all reports again ─▶        Event::Released
//! ```
//!
//! Invariants: the next hello is not said before the agent's verdict on the last update is known, so that it says
//! what the agent really has; the newest report of every workload is said again after every reconnect; a lost stream
//! changes nothing in the agent's world. Not here: applying updates, and storing them.

mod backoff;
mod connect;
mod follow;
mod sign;
mod status;
mod update;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_model::Uid;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

pub use connect::ConnectError;
pub use sign::SignError;
pub use status::ClientStatus;
pub use update::{Event, Receipt, Update};

use crate::Seen;
use crate::resource::Resource;

/// Events that may wait for the agent before the client stops reading from the stream.
const EVENTS: usize = 64;

/// Where the controller is and who speaks to it.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `HOST:PORT`, with or without a scheme before it. Resolved anew at each connect.
    pub controller: String,
    /// The name that the controller's certificate must carry.
    pub server_name: String,
    /// PEM file of the roots that may vouch for the controller; read anew at each connect.
    pub roots: PathBuf,
    /// File of the bearer token; read anew for each call. Missing or empty is an error.
    pub token_file: PathBuf,
    /// The node, as its Node object is named.
    pub node: String,
    /// The agent's version, for people.
    pub version: String,
    /// What the agent already has, from its cache: it is not sent again unless it changed.
    pub initial: Vec<Resource>,
}

/// What the agent says of a pod of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Listeners and hooks are in place: peers may use the tunnel.
    Captured,
    /// About to be released; [`Event::Released`] follows once the peers know.
    Leaving,
    /// Not captured, or no more. The reason is for people, and empty where there is nothing to explain.
    Gone {
        /// Why.
        reason: String,
    },
}

/// A handle; clones share the stream, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    _guard: Arc<DropGuard>,
}

/// What handles and the stream's task share.
#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    /// Held for a look or an insert.
    reports: Mutex<Reports>,
    /// There are unsaid reports.
    reported: Notify,
    /// Held for a look or a few stores.
    status: Mutex<ClientStatus>,
    /// The connection, while there is one: signing shares it.
    channel: watch::Sender<Option<Channel>>,
}

#[derive(Debug, Default)]
struct Reports {
    /// The newest word on each workload.
    newest: BTreeMap<Uid, Capture>,
    /// Which of them the controller has not been told on this stream.
    unsaid: BTreeSet<Uid>,
    /// For people; the oldest go when there are too many.
    events: VecDeque<NodeEvent>,
    /// Who talked to this node's pods, newest last; the oldest go when there are too many.
    seen: VecDeque<Seen>,
    /// Pairs that were never seen for want of room.
    unseen: u64,
    /// The node has let go of everything; said again on every stream.
    left: bool,
    left_unsaid: bool,
}

/// What people are to be told of a pod of this node, or of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Of which pod; `None`: of the node.
    pub uid: Option<Uid>,
    /// A word in CamelCase, as in a Kubernetes Event.
    pub reason: String,
    /// One sentence.
    pub note: String,
    /// A warning, or else normal.
    pub warning: bool,
}

/// What may wait for a stream of who talked to whom.
const UNSAID_SEEN: usize = 4_096;
/// Events that may wait for a stream.
const UNSAID_EVENTS: usize = 256;

impl Client {
    /// Starts the stream's task. Never fails: what is wrong comes as [`Event::Disconnected`] and in
    /// [`Client::status`], and is tried again. Needs a tokio runtime.
    pub fn spawn(mut config: ClientConfig) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let initial = std::mem::take(&mut config.initial);
        let shared = Arc::new(Shared {
            config,
            reports: Mutex::default(),
            reported: Notify::new(),
            status: Mutex::new(ClientStatus::new()),
            channel: watch::Sender::new(None),
        });
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        let task = follow::Follower::new(shared.clone(), events, &initial);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        (Self { shared, _guard: guard }, receiver)
    }

    /// Says what became of a workload of this node. The newest word is kept and said again after every reconnect.
    pub fn report(&self, uid: Uid, capture: Capture) {
        let mut reports = self.shared.reports();
        reports.newest.insert(uid.clone(), capture);
        reports.unsaid.insert(uid);
        drop(reports);
        self.shared.reported.notify_one();
    }

    /// No longer says anything of a workload. Takes nothing back: the controller keeps the last word.
    pub fn forget(&self, uid: &Uid) {
        let mut reports = self.shared.reports();
        reports.newest.remove(uid);
        reports.unsaid.remove(uid);
    }

    /// Has the controller tell people something. Best effort, and once.
    pub fn tell(&self, event: NodeEvent) {
        let mut reports = self.shared.reports();
        if reports.events.len() >= UNSAID_EVENTS {
            reports.events.pop_front();
        }
        reports.events.push_back(event);
        drop(reports);
        self.shared.reported.notify_one();
    }

    /// Says who talked to this node's pods, and how many pairs there was no room for. Best effort, and once.
    pub fn observed(&self, seen: Vec<Seen>, unseen: u64) {
        let mut reports = self.shared.reports();
        reports.seen.extend(seen);
        let over = reports.seen.len().saturating_sub(UNSAID_SEEN);
        reports.seen.drain(..over);
        reports.unseen = unseen;
        drop(reports);
        self.shared.reported.notify_one();
    }

    /// The mesh is leaving, and this node has let go of everything. Said again after every reconnect.
    pub fn left(&self) {
        let mut reports = self.shared.reports();
        reports.left = true;
        reports.left_unsaid = true;
        drop(reports);
        self.shared.reported.notify_one();
    }

    /// Takes that back: the mesh stays after all.
    pub fn stays(&self) {
        let mut reports = self.shared.reports();
        reports.left_unsaid = std::mem::take(&mut reports.left);
        drop(reports);
        self.shared.reported.notify_one();
    }

    /// Has the controller sign a certificate request for an identity that runs on this node. The chain, PEM, leaf
    /// first. Waits for a connection for a while if there is none.
    pub async fn sign(&self, identity: &mesh_model::Identity, csr_pem: &str) -> Result<String, SignError> {
        sign::sign(&self.shared, identity, csr_pem).await
    }

    /// Where the stream stands.
    pub fn status(&self) -> ClientStatus {
        self.shared.status().clone()
    }
}

impl ClientConfig {
    /// A configuration with the controller's usual name and nothing cached.
    pub fn new(
        controller: impl Into<String>,
        roots: impl Into<PathBuf>,
        token_file: impl Into<PathBuf>,
        node: impl Into<String>,
    ) -> Self {
        Self {
            controller: controller.into(),
            server_name: crate::CONTROLLER_NAME.into(),
            roots: roots.into(),
            token_file: token_file.into(),
            node: node.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            initial: Vec::new(),
        }
    }
}

impl Shared {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, ClientStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
