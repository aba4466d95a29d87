//! One stream as the controller sees it: what its client has, what is in flight, what is still to be compared.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Published;
use crate::proto;
use crate::resource::{Name, ResourceError, Version};

/// So many resources go into one delta, removed ones included …
const BATCH: usize = 2_000;
/// … and so many bytes of bodies, unless one alone is larger.
const BATCH_BYTES: usize = 1 << 20;

/// The controller's side of one stream.
#[derive(Debug)]
pub struct Session {
    /// The client's: of other nodes it hears nothing.
    node: String,
    workloads: bool,
    services: bool,
    mesh: bool,
    nodes: bool,
    /// What the client has. `None`: something by this name, and neither side knows what.
    client: HashMap<Name, Option<Version>>,
    /// What the hello held and this controller never published; not taken away while the published is partial.
    strange: HashSet<Name>,
    /// Names whose published version may differ from the client's. Ordered, so that equal histories give equal deltas.
    dirty: BTreeSet<Name>,
    /// `dirty` accounts for all generations up to this one.
    seen: u64,
    /// The newest generation that the client is known to have in whole.
    acked: u64,
    in_flight: Option<InFlight>,
    /// The client knows that its snapshot is whole.
    complete: bool,
    /// Something was refused: wait for news or for [`Session::retry`], so that a bad resource cannot spin.
    held: bool,
    nonce: u64,
}

#[derive(Debug)]
struct InFlight {
    /// What the client will have by then, by name; `None`: nothing.
    sent: Vec<(Name, Option<Version>)>,
    /// The generation that the client has in whole once it acknowledges this.
    generation: Option<u64>,
}

/// A message that breaks the protocol; the stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The hello is malformed.
    #[error("malformed hello")]
    Hello(#[source] ResourceError),
    /// An answer to a delta that is not in flight.
    #[error("answer to delta {0}, which is not in flight")]
    Nonce(u64),
}

impl Session {
    /// Starts from a client's hello.
    pub fn new(hello: &proto::Hello, published: &Published) -> Result<Self, ProtocolError> {
        let wants = |kind| hello.subscribe.is_empty() || hello.subscribe().any(|wanted| wanted == kind);
        let mut session = Self {
            node: hello.node.clone(),
            workloads: wants(proto::ResourceType::Workload),
            services: wants(proto::ResourceType::Service),
            mesh: wants(proto::ResourceType::Mesh),
            nodes: wants(proto::ResourceType::Node),
            client: HashMap::with_capacity(hello.held.len()),
            strange: HashSet::new(),
            dirty: BTreeSet::new(),
            seen: published.generation(),
            acked: 0,
            in_flight: None,
            complete: false,
            held: false,
            nonce: 0,
        };
        for held in &hello.held {
            let name = Name::decode(held.name.as_ref()).map_err(ProtocolError::Hello)?;
            let version = match held.version.is_empty() {
                true => None,
                false => Some(Version::decode(&name, &held.version).map_err(ProtocolError::Hello)?),
            };
            if published.get(&name).is_none() {
                session.strange.insert(name.clone());
            }
            session.client.insert(name, version);
        }
        session.compare_everything(published);
        Ok(session)
    }

    fn follows(&self, name: &Name) -> bool {
        match name {
            Name::Workload(_) => self.workloads,
            Name::Service(..) => self.services,
            Name::Mesh => self.mesh,
            Name::Node(name) => self.nodes && *name == self.node,
        }
    }

    fn compare_everything(&mut self, published: &Published) {
        self.dirty.extend(published.names().cloned());
        self.dirty.extend(self.client.keys().cloned());
    }

    /// The next thing to say, if there is one and nothing is in flight.
    pub fn next(&mut self, published: &Published) -> Option<proto::Delta> {
        if self.in_flight.is_some() {
            return None;
        }
        if published.generation() > self.seen {
            match published.since(self.seen) {
                Some(names) => {
                    for name in names {
                        self.strange.remove(name);
                        self.dirty.insert(name.clone());
                    }
                }
                None => self.compare_everything(published),
            }
            if !published.is_partial() {
                self.dirty.extend(std::mem::take(&mut self.strange));
            }
            self.seen = published.generation();
            self.held = false;
        }
        if self.held {
            return None;
        }
        self.batch(published)
    }

    fn batch(&mut self, published: &Published) -> Option<proto::Delta> {
        let mut delta = proto::Delta { complete: true, ..Default::default() };
        let mut sent = Vec::new();
        let mut bytes = 0;
        let mut settled = Vec::new();
        for name in &self.dirty {
            let target = published.get(name).filter(|_| self.follows(name));
            let has = self.client.get(name);
            match (target, has) {
                (None, None) => settled.push(name.clone()),
                (Some(target), Some(Some(has))) if target.version == *has => settled.push(name.clone()),
                (None, Some(_)) if published.is_partial() && self.strange.contains(name) => {
                    settled.push(name.clone());
                }
                _ if sent.len() >= BATCH || (bytes >= BATCH_BYTES) => {
                    delta.complete = false;
                    break;
                }
                (None, Some(_)) => {
                    delta.removed.push(name.encode());
                    sent.push((name.clone(), None));
                }
                (Some(target), _) => {
                    bytes += target.body.len();
                    delta.resources.push(proto::Resource {
                        name: Some(name.encode()),
                        version: target.version.0.to_vec().into(),
                        body: target.body.clone(),
                    });
                    sent.push((name.clone(), Some(target.version)));
                }
            }
        }
        for name in settled {
            self.dirty.remove(&name);
        }
        if sent.is_empty() && self.complete {
            self.acked = self.seen;
            return None;
        }
        self.nonce += 1;
        delta.nonce = self.nonce;
        delta.world_version = published.version().0.to_vec().into();
        self.in_flight = Some(InFlight { sent, generation: delta.complete.then_some(self.seen) });
        Some(delta)
    }

    /// The client applied the delta.
    pub fn ack(&mut self, nonce: u64) -> Result<(), ProtocolError> {
        let answered = self.answered(nonce)?;
        for (name, version) in answered.sent {
            self.settle(name, version);
        }
        if let Some(generation) = answered.generation {
            self.acked = generation;
            self.complete = true;
        }
        Ok(())
    }

    /// The client refused some of the delta, or (nothing named) all of it.
    pub fn nack(&mut self, nonce: u64, refused: &[proto::ResourceName]) -> Result<(), ProtocolError> {
        let answered = self.answered(nonce)?;
        for (name, version) in answered.sent {
            if refused.is_empty() || refused.contains(&name.encode()) {
                self.client.insert(name, None);
            } else {
                self.settle(name, version);
            }
        }
        self.held = true;
        Ok(())
    }

    fn answered(&mut self, nonce: u64) -> Result<InFlight, ProtocolError> {
        if nonce != self.nonce {
            return Err(ProtocolError::Nonce(nonce));
        }
        self.in_flight.take().ok_or(ProtocolError::Nonce(nonce))
    }

    fn settle(&mut self, name: Name, version: Option<Version>) {
        self.dirty.remove(&name);
        match version {
            Some(version) => self.client.insert(name, Some(version)),
            None => self.client.remove(&name),
        };
    }

    /// Says again, at the next call of [`Session::next`], what was refused. The caller chooses when.
    pub fn retry(&mut self) {
        self.held = false;
    }

    /// Something was refused and not yet said again.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The newest generation that the client has acknowledged in whole; 0: none yet.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// How many resources the client is known to have.
    pub fn len(&self) -> usize {
        self.client.len()
    }

    /// The client is known to have nothing.
    pub fn is_empty(&self) -> bool {
        self.client.is_empty()
    }
}
