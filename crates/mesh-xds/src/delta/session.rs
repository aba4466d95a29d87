//! One stream as the controller sees it: what is in flight, and where its client differs from what is published.
//!
//! ```text
//! hello held nothing ─▶ walk through all names ─┐
//! hello held some ────▶ compare with all, once ─┼─▶ dirty ─▶ delta in flight ─┬─ ack ─▶ (nothing to remember)
//! log of changes ──────────────────────────────┘                             └─ nack ─▶ dirty, and nobody knows what it has
//! ```
//!
//! What the client has in common with the published is not written down: only the differences are, and they are gone
//! once they are acknowledged. So a session of an agent that is up to date costs the same in a large mesh as in a small
//! one, and the session of one that does not answer holds each changed name once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::Published;
use crate::proto;
use crate::resource::{Name, ResourceError, Version};

/// So many resources go into one delta, removed ones included …
const BATCH: usize = 1_000;
/// … and so many bytes of bodies, unless one alone is larger. With the names twice as much: what the controller holds at
/// most of what is on its way to one agent.
const BATCH_BYTES: usize = 256 << 10;
/// A hello may hold so many names.
const HELD: usize = 250_000;

/// The controller's side of one stream.
#[derive(Debug)]
pub struct Session {
    /// The client's: of other nodes it hears nothing.
    node: String,
    workloads: bool,
    services: bool,
    mesh: bool,
    nodes: bool,
    policies: bool,
    /// Names by which the client may have something else than what is published, and what it has. By all others it has
    /// what was published at `seen`. Ordered, so that equal histories give equal deltas.
    dirty: BTreeMap<Name, Has>,
    /// The first snapshot of a client that came with nothing: of the names from here on it has none yet.
    walk: Option<Bound<Name>>,
    /// What the hello held and this controller never published, while the published is partial: left with the client.
    strange: BTreeMap<Name, Has>,
    /// `dirty` accounts for all generations up to this one.
    seen: u64,
    /// The newest generation that the client is known to have in whole.
    acked: u64,
    in_flight: Option<InFlight>,
    /// Something became dirty since the last delta was made.
    news: bool,
    /// The client knows that its snapshot is whole.
    complete: bool,
    /// Something was refused: wait for news or for [`Session::retry`], so that a bad resource cannot spin.
    held: bool,
    nonce: u64,
}

/// What the client has by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Has {
    Nothing,
    This(Version),
    /// It refused something by this name: neither side knows.
    Unknown,
}

#[derive(Debug)]
struct InFlight {
    /// By these names the client will have what was published, or nothing.
    sent: Vec<Name>,
    /// The generation that the client has in whole once it acknowledges this.
    generation: Option<u64>,
}

/// A message that breaks the protocol, or an agent that cannot be helped here; the stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The hello is malformed.
    #[error("malformed hello")]
    Hello(#[source] ResourceError),
    /// The hello is too large.
    #[error("a hello that holds {0} resources, of {HELD} at most")]
    Held(usize),
    /// An answer to a delta that is not in flight.
    #[error("answer to delta {0}, which is not in flight")]
    Nonce(u64),
    /// More has changed than is remembered since the session last looked.
    #[error("too far behind: say hello again")]
    Behind,
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
            policies: wants(proto::ResourceType::Policy),
            dirty: BTreeMap::new(),
            walk: None,
            strange: BTreeMap::new(),
            seen: published.generation(),
            acked: 0,
            in_flight: None,
            news: false,
            complete: false,
            held: false,
            nonce: 0,
        };
        if hello.held.len() > HELD {
            return Err(ProtocolError::Held(hello.held.len()));
        }
        if hello.held.is_empty() {
            session.walk = Some(Bound::Unbounded);
            return Ok(session);
        }
        let mut client = HashMap::with_capacity(hello.held.len());
        for held in &hello.held {
            let name = Name::decode(held.name.as_ref()).map_err(ProtocolError::Hello)?;
            let has = match held.version.is_empty() {
                true => Has::Unknown,
                false => Has::This(Version::decode(&name, &held.version).map_err(ProtocolError::Hello)?),
            };
            client.insert(name, has);
        }
        session.compare(client, published);
        Ok(session)
    }

    /// Finds every difference between what the client has and what is published.
    fn compare(&mut self, mut client: HashMap<Name, Has>, published: &Published) {
        for (name, target) in published.from(Bound::Unbounded) {
            if !self.follows(name) {
                continue;
            }
            match client.remove(name) {
                Some(Has::This(version)) if version == target.version => {}
                has => drop(self.dirty.insert(name.clone(), has.unwrap_or(Has::Nothing))),
            }
        }
        for (name, has) in client {
            match published.get(&name) {
                None if published.is_partial() => self.strange.insert(name, has),
                _ => self.dirty.insert(name, has),
            };
        }
    }

    fn follows(&self, name: &Name) -> bool {
        match name {
            Name::Workload(_) => self.workloads,
            Name::Service(..) => self.services,
            Name::Mesh => self.mesh,
            Name::Policy(_) => self.policies,
            Name::Node(name) => self.nodes && **name == *self.node,
        }
    }

    /// The walk has not come to the name yet.
    fn is_ahead(&self, name: &Name) -> bool {
        match &self.walk {
            None => false,
            Some(Bound::Excluded(last)) => name > last,
            Some(Bound::Included(_) | Bound::Unbounded) => true,
        }
    }

    /// Takes note of what changed since the last look. To be called with each generation, also while a delta is in
    /// flight: what is remembered of changes is bounded.
    fn look(&mut self, published: &Published) -> Result<(), ProtocolError> {
        if published.generation() > self.seen {
            for (name, before) in published.since(self.seen).ok_or(ProtocolError::Behind)? {
                if !self.follows(name) || self.is_ahead(name) || self.dirty.contains_key(name) {
                    continue;
                }
                let has = self.strange.remove(name);
                let has = has.unwrap_or_else(|| before.map_or(Has::Nothing, Has::This));
                self.dirty.insert(name.clone(), has);
            }
            self.seen = published.generation();
            self.news = true;
            self.held = false;
        }
        if !published.is_partial() {
            self.dirty.append(&mut self.strange);
        }
        Ok(())
    }

    /// The next thing to say, if there is one and nothing is in flight.
    pub fn next(&mut self, published: &Published) -> Result<Option<proto::Delta>, ProtocolError> {
        self.look(published)?;
        if self.in_flight.is_some() || self.held {
            return Ok(None);
        }
        let mut delta = Batch::default();
        while let Some((name, has)) = self.dirty.pop_first() {
            let target = published.get(&name).filter(|_| self.follows(&name));
            match (target, has) {
                (None, Has::Nothing) => {}
                (Some(target), Has::This(version)) if target.version == version => {}
                _ if delta.is_full() => {
                    self.dirty.insert(name, has);
                    break;
                }
                (None, Has::This(_) | Has::Unknown) => delta.remove(name),
                (Some(target), _) => delta.set(name, target.version, &target.body),
            }
        }
        if let Some(start) = self.walk.take() {
            let mut last = start.clone();
            for (name, target) in published.from(start) {
                if !self.follows(name) {
                    continue;
                }
                if delta.is_full() {
                    self.walk = Some(last);
                    break;
                }
                delta.set(name.clone(), target.version, &target.body);
                last = Bound::Excluded(name.clone());
            }
        }
        let all = self.dirty.is_empty() && self.walk.is_none();
        if delta.sent.is_empty() && self.complete {
            self.acked = self.seen;
            return Ok(None);
        }
        self.nonce += 1;
        self.news = false;
        self.in_flight = Some(InFlight { sent: delta.sent, generation: all.then_some(self.seen) });
        Ok(Some(proto::Delta {
            nonce: self.nonce,
            world_version: published.version().0.to_vec().into(),
            resources: delta.resources,
            removed: delta.removed,
            complete: all,
        }))
    }

    /// The client applied the delta.
    pub fn ack(&mut self, nonce: u64) -> Result<(), ProtocolError> {
        let answered = self.answered(nonce)?;
        if let Some(generation) = answered.generation {
            self.acked = generation;
            self.complete = true;
        }
        Ok(())
    }

    /// The client refused some of the delta, or (nothing named) all of it.
    pub fn nack(&mut self, nonce: u64, refused: &[proto::ResourceName]) -> Result<(), ProtocolError> {
        let answered = self.answered(nonce)?;
        for name in answered.sent {
            if refused.is_empty() || refused.contains(&name.encode()) {
                self.dirty.insert(name, Has::Unknown);
            }
        }
        self.held = !self.news;
        Ok(())
    }

    fn answered(&mut self, nonce: u64) -> Result<InFlight, ProtocolError> {
        if nonce != self.nonce {
            return Err(ProtocolError::Nonce(nonce));
        }
        self.in_flight.take().ok_or(ProtocolError::Nonce(nonce))
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

    /// Names that the session remembers: those in which its client differs, and those on their way to it.
    pub fn remembered(&self) -> usize {
        let in_flight = self.in_flight.as_ref().map_or(0, |in_flight| in_flight.sent.len());
        self.dirty.len() + self.strange.len() + in_flight
    }
}

/// A delta that is being put together.
#[derive(Default)]
struct Batch {
    resources: Vec<proto::Resource>,
    removed: Vec<proto::ResourceName>,
    sent: Vec<Name>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.sent.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn remove(&mut self, name: Name) {
        self.removed.push(name.encode());
        self.sent.push(name);
    }

    fn set(&mut self, name: Name, version: Version, body: &bytes::Bytes) {
        self.bytes += body.len();
        let version = version.0.to_vec().into();
        self.resources.push(proto::Resource { name: Some(name.encode()), version, body: body.clone() });
        self.sent.push(name);
    }
}
