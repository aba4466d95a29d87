//! What the controller has to say: every resource as of the newest generation, and a log of which changed when.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use mesh_model::Change;

use crate::resource::{Encoded, Name, Resource, Version};

/// So many changes are remembered; a session that is further behind must begin anew. About 80 bytes each.
const LOG: usize = 65_536;

/// The published snapshot. One, shared by all sessions of a controller.
#[derive(Debug, Default)]
pub struct Published {
    /// Rises with every batch that changed something. Of this process only; never on the wire.
    generation: u64,
    resources: BTreeMap<Name, Encoded>,
    /// The exclusive-or of the versions of all that every agent is told: equal contents, equal value, whatever the order
    /// of changes. What only one node is told is not in it, so agents of different nodes can be compared.
    digest: u128,
    /// Some facts could never be read: what only a client knows may be in them and is not taken from it.
    partial: bool,
    /// What changed, oldest first.
    log: VecDeque<Logged>,
    /// The log is whole for all generations above this one.
    forgotten: u64,
}

/// A resource became another, came or went.
#[derive(Debug)]
struct Logged {
    generation: u64,
    name: Name,
    /// What was published by this name before.
    before: Option<Version>,
}

impl Published {
    /// Applies a batch of changes; false if nothing is different.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> bool {
        let next = self.generation + 1;
        let mut changed = false;
        for change in changes {
            if let Some((name, before)) = self.apply_one(change) {
                changed = true;
                self.log.push_back(Logged { generation: next, name, before });
                if self.log.len() > LOG
                    && let Some(oldest) = self.log.pop_front()
                {
                    self.forgotten = oldest.generation;
                }
            }
        }
        if changed {
            self.generation = next;
        }
        changed
    }

    fn apply_one(&mut self, change: Change) -> Option<(Name, Option<Version>)> {
        let (name, new) = match change {
            Change::Workload(workload) => encoded(Resource::Workload(workload)),
            Change::Service(service) => encoded(Resource::Service(service)),
            Change::WorkloadRemoved(uid) => (Name::Workload(uid), None),
            Change::ServiceRemoved(key) => (Name::of_service(&key), None),
            Change::Mesh(settings) => encoded(Resource::Mesh(settings)),
            Change::MeshRemoved => (Name::Mesh, None),
            Change::Node(node) => encoded(Resource::Node(node)),
            Change::NodeRemoved(name) => (Name::Node(name), None),
            Change::Policy(policy) => encoded(Resource::Policy(policy)),
            Change::PolicyRemoved(key) => (Name::Policy(key), None),
        };
        let after = new.as_ref().map(|new| new.version);
        let before = match (self.resources.entry(name.clone()), new) {
            (Entry::Occupied(old), Some(new)) if old.get().version == new.version => return None,
            (Entry::Occupied(mut old), Some(new)) => Some(old.insert(new).version),
            (Entry::Occupied(old), None) => Some(old.remove().version),
            (Entry::Vacant(free), Some(new)) => {
                free.insert(new);
                None
            }
            (Entry::Vacant(_), None) => return None,
        };
        if !matches!(name, Name::Node(_)) {
            self.digest ^= number(before) ^ number(after);
        }
        Some((name, before))
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

    /// The version of all that every agent is told.
    pub fn version(&self) -> Version {
        Version(self.digest.to_be_bytes())
    }

    /// A resource by name.
    pub fn get(&self, name: &Name) -> Option<&Encoded> {
        self.resources.get(name)
    }

    /// Everything from a name on, in the order of names.
    pub(super) fn from(&self, start: Bound<Name>) -> impl Iterator<Item = (&Name, &Encoded)> {
        self.resources.range((start, Bound::Unbounded))
    }

    /// What changed after a generation, in order, and what it was before; nothing if the log does not reach back so far.
    pub(super) fn since(&self, generation: u64) -> Option<impl Iterator<Item = (&Name, Option<Version>)>> {
        if generation < self.forgotten {
            return None;
        }
        let start = self.log.partition_point(|logged| logged.generation <= generation);
        Some(self.log.range(start..).map(|logged| (&logged.name, logged.before)))
    }
}

fn encoded(resource: Resource) -> (Name, Option<Encoded>) {
    (resource.name(), Some(resource.encode()))
}

fn number(version: Option<Version>) -> u128 {
    version.map_or(0, |version| u128::from_be_bytes(version.0))
}
