//! What the controller has to say: every resource as of the newest generation, and a log of which changed when.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use mesh_model::Change;

use crate::resource::{Encoded, Name, Resource, Version};

/// So many changes are remembered by name; a session that is further behind compares everything.
const LOG: usize = 65_536;

/// The published snapshot. One, shared by all sessions of a controller.
#[derive(Debug, Default)]
pub struct Published {
    /// Rises with every batch that changed something. Of this process only; never on the wire.
    generation: u64,
    resources: HashMap<Name, Encoded>,
    /// The exclusive-or of all resources' versions: equal contents, equal value, whatever the order of changes.
    digest: u128,
    /// Some facts could never be read: what only a client knows may be in them and is not taken from it.
    partial: bool,
    /// Which resource changed at which generation, oldest first.
    log: VecDeque<(u64, Name)>,
    /// The log is whole for all generations above this one.
    forgotten: u64,
}

impl Published {
    /// Applies a batch of changes; false if nothing is different.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        let next = self.generation + 1;
        let mut changed = false;
        for change in changes {
            if let Some(name) = self.apply_one(change) {
                changed = true;
                self.log.push_back((next, name));
            }
        }
        if changed {
            self.generation = next;
        }
        while self.log.len() > LOG {
            if let Some((generation, _)) = self.log.pop_front() {
                self.forgotten = generation;
            }
        }
        changed
    }

    fn apply_one(&mut self, change: Change) -> Option<Name> {
        let (name, new) = match change {
            Change::Workload(workload) => encoded(Resource::Workload(workload)),
            Change::Service(service) => encoded(Resource::Service(service)),
            Change::WorkloadRemoved(uid) => (Name::Workload(uid), None),
            Change::ServiceRemoved(key) => (Name::of_service(&key), None),
            Change::Mesh(settings) => encoded(Resource::Mesh(settings)),
            Change::MeshRemoved => (Name::Mesh, None),
            Change::Node(node) => encoded(Resource::Node(node)),
            Change::NodeRemoved(name) => (Name::Node(name.as_ref().into()), None),
        };
        match (self.resources.entry(name.clone()), new) {
            (Entry::Occupied(old), Some(new)) if old.get().version == new.version => return None,
            (Entry::Occupied(mut old), Some(new)) => {
                self.digest ^= number(old.get().version) ^ number(new.version);
                old.insert(new);
            }
            (Entry::Occupied(old), None) => self.digest ^= number(old.remove().version),
            (Entry::Vacant(free), Some(new)) => {
                self.digest ^= number(new.version);
                free.insert(new);
            }
            (Entry::Vacant(_), None) => return None,
        }
        Some(name)
    }

    /// Says whether some facts could never be read since the controller started. While that is so, a resource that a
    /// client has and this controller never heard of is left with the client. Becoming whole is a new generation.
    pub fn set_partial(&mut self, partial: bool) {
        if self.partial && !partial {
            self.generation += 1;
        }
        self.partial = partial;
    }

    /// Whether some facts could never be read.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// The newest generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The version of the whole.
    pub fn version(&self) -> Version {
        Version(self.digest.to_be_bytes())
    }

    /// A resource by name.
    pub fn get(&self, name: &Name) -> Option<&Encoded> {
        self.resources.get(name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.resources.keys()
    }

    /// What changed after a generation; nothing if the log does not reach back so far (compare everything).
    pub(super) fn since(&self, generation: u64) -> Option<impl Iterator<Item = &Name>> {
        if generation < self.forgotten {
            return None;
        }
        let start = self.log.partition_point(|(at, _)| *at <= generation);
        Some(self.log.range(start..).map(|(_, name)| name))
    }
}

fn encoded(resource: Resource) -> (Name, Option<Encoded>) {
    (resource.name(), Some(resource.encode()))
}

fn number(version: Version) -> u128 {
    u128::from_be_bytes(version.0)
}
