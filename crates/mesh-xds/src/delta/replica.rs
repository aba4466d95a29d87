//! One stream as the agent sees it: which version of what it has.

use std::collections::BTreeMap;

use mesh_model::Change;

use crate::proto;
use crate::resource::{Name, Resource, ResourceError, Strings, Version};

/// The client's side: names and versions only; the contents are the agent's world.
#[derive(Debug, Default)]
pub struct Replica {
    /// `None`: the agent refused the newest, so nobody knows what it has by this name.
    held: BTreeMap<Name, Option<Version>>,
    /// What resources have in common.
    strings: Strings,
    /// How many were held when they were last packed.
    packed: usize,
}

/// So many more make packing worth while.
const GROWN: usize = 1_000;

/// A delta, decoded. It counts only once it is handed back to [`Replica::accept`] or [`Replica::refuse`].
#[derive(Debug)]
pub struct Received {
    /// What the agent is to apply, in order.
    pub changes: Vec<Change>,
    /// Its number.
    pub nonce: u64,
    /// With this delta the agent has all that the controller had. Never true if something did not decode.
    pub complete: bool,
    /// Of the controller's whole world.
    pub world_version: Version,
    /// What the changes make of the versions held.
    versions: Vec<(Name, Option<Version>)>,
    /// What did not decode, by name as it came, and why.
    undecodable: Vec<(proto::ResourceName, ResourceError)>,
}

impl Replica {
    /// A replica of an agent that has these from its cache.
    pub fn new(cached: &[Resource]) -> Self {
        let held = cached.iter().map(|resource| (resource.name(), Some(resource.encode().version))).collect();
        Self { held, ..Self::default() }
    }

    /// What to say in the hello.
    pub fn held(&self) -> Vec<proto::HeldResource> {
        let version = |version: &Option<Version>| version.map(|v| v.0.to_vec()).unwrap_or_default().into();
        self.held
            .iter()
            .map(|(name, held)| proto::HeldResource { name: Some(name.encode()), version: version(held) })
            .collect()
    }

    /// Names and versions.
    pub fn versions(&self) -> impl Iterator<Item = (&Name, Option<Version>)> {
        self.held.iter().map(|(name, version)| (name, *version))
    }

    /// Decodes a delta. What does not decode is left out and will be refused by name.
    pub fn receive(&mut self, delta: proto::Delta) -> Received {
        let world_version = delta.world_version.as_ref().try_into().map(Version).unwrap_or_default();
        let mut received = Received {
            changes: Vec::with_capacity(delta.resources.len() + delta.removed.len()),
            nonce: delta.nonce,
            complete: delta.complete,
            world_version,
            versions: Vec::new(),
            undecodable: Vec::new(),
        };
        for resource in delta.resources {
            match decode(&resource) {
                Ok((name, version, decoded)) => {
                    let (name, decoded) = self.share(name, decoded);
                    received.changes.push(decoded.into_change());
                    received.versions.push((name, Some(version)));
                }
                Err(error) => received.undecodable.push((resource.name.unwrap_or_default(), error)),
            }
        }
        for name in delta.removed {
            match Name::decode(Some(&name)) {
                Ok(name) => {
                    received.changes.push(name.clone().into_removal());
                    received.versions.push((name, None));
                }
                Err(error) => received.undecodable.push((name, error)),
            }
        }
        received.complete &= received.undecodable.is_empty();
        received
    }

    /// The same resource, whose parts are those that are there already.
    fn share(&mut self, mut name: Name, mut resource: Resource) -> (Name, Resource) {
        if let Some((known, _)) = self.held.get_key_value(&name) {
            name = known.clone();
        }
        self.strings.share(&mut name, &mut resource);
        if let Resource::Service(service) = &mut resource {
            for uid in service.endpoints.iter_mut().filter_map(|endpoint| endpoint.workload.as_mut()) {
                if let Some((Name::Workload(known), _)) =
                    self.held.get_key_value(&Name::Workload(uid.clone()))
                {
                    *uid = known.clone();
                }
            }
        }
        (name, resource)
    }

    /// The agent applied the changes. The answer to send: an ack, or a nack of what did not decode.
    pub fn accept(&mut self, received: Received) -> proto::AgentMessage {
        for (name, version) in received.versions {
            match version {
                Some(version) => self.held.insert(name, Some(version)),
                None => self.held.remove(&name),
            };
        }
        if received.complete && self.held.len() > self.packed + self.packed / 4 + GROWN {
            // Grown name by name its nodes are half empty; made anew they are full.
            self.held = std::mem::take(&mut self.held).into_iter().collect();
            self.packed = self.held.len();
        }
        if received.undecodable.is_empty() {
            return message(proto::agent_message::Message::Ack(proto::Ack { nonce: received.nonce }));
        }
        let error = received
            .undecodable
            .iter()
            .take(10)
            .map(|(_, error)| crate::chain(error))
            .collect::<Vec<_>>()
            .join("; ");
        let refused = received.undecodable.into_iter().map(|(name, _)| name).collect();
        message(proto::agent_message::Message::Nack(proto::Nack { nonce: received.nonce, error, refused }))
    }

    /// The agent could not apply the changes. The answer to send: a nack of everything.
    pub fn refuse(&mut self, received: Received, error: String) -> proto::AgentMessage {
        for (name, _) in received.versions {
            self.held.insert(name, None);
        }
        let nack = proto::Nack { nonce: received.nonce, error, refused: Vec::new() };
        message(proto::agent_message::Message::Nack(nack))
    }
}

impl Received {
    /// What did not decode, in words; nothing if all did.
    pub fn complaint(&self) -> Option<String> {
        let (_, first) = self.undecodable.first()?;
        let rest = self.undecodable.len() - 1;
        let first = crate::chain(first);
        Some(if rest == 0 { first } else { format!("{first}; and {rest} more") })
    }
}

fn decode(resource: &proto::Resource) -> Result<(Name, Version, Resource), ResourceError> {
    let name = Name::decode(resource.name.as_ref())?;
    let version = Version::decode(&name, &resource.version)?;
    let decoded = Resource::decode(&name, &resource.body)?;
    Ok((name, version, decoded))
}

fn message(message: proto::agent_message::Message) -> proto::AgentMessage {
    proto::AgentMessage { message: Some(message) }
}
