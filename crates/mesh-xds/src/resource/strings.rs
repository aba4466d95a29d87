//! What many resources have in common, kept once: the names of namespaces, owners, nodes and zones, and identities.
//!
//! A body carries all its strings, so each resource decodes to copies of its own. Ten thousand pods of a mesh have a few
//! hundred namespaces, owners and service accounts between them; a world that shares those is half as large.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_model::{Identity, Uid};

use super::{Name, Resource};

/// So many may be kept before those are forgotten that nobody uses any more.
const FEW: usize = 1_024;

/// The strings and identities that were met.
#[derive(Debug, Default)]
pub struct Strings {
    known: HashSet<Arc<str>>,
    identities: HashSet<Identity>,
    /// To be swept when there are more.
    limit: usize,
}

impl Strings {
    /// Makes a resource, and the name that it came under, of strings that are there already, where there are.
    pub fn share(&mut self, name: &mut Name, resource: &mut Resource) {
        match resource {
            Resource::Workload(workload) => {
                self.one(&mut workload.namespace);
                self.one(&mut workload.owner);
                self.one(&mut workload.node);
                self.identity(&mut workload.identity);
                if let Name::Workload(uid) = name {
                    workload.uid = Uid::clone(uid);
                }
            }
            Resource::Service(service) => {
                if let Name::Service(namespace, name) = name {
                    self.one(namespace);
                    service.key.namespace = namespace.clone();
                    service.key.name = name.clone();
                }
                for endpoint in &mut service.endpoints {
                    let hints = endpoint.for_zones.iter_mut().chain(&mut endpoint.for_nodes);
                    endpoint.node.iter_mut().chain(hints).for_each(|text| self.one(text));
                }
            }
            Resource::Mesh(_) | Resource::Node(_) | Resource::Policy(_) => {}
        }
    }

    fn one(&mut self, text: &mut Arc<str>) {
        match self.known.get(text) {
            Some(known) => *text = known.clone(),
            None => {
                self.sweep();
                self.known.insert(text.clone());
            }
        }
    }

    fn identity(&mut self, identity: &mut Identity) {
        match self.identities.get(identity) {
            Some(known) => *identity = known.clone(),
            None => {
                self.sweep();
                self.identities.insert(identity.clone());
            }
        }
    }

    /// Now and then forgets what is in no resource any more. (Of an identity nobody can tell: it is met again.)
    fn sweep(&mut self) {
        if self.known.len() + self.identities.len() < self.limit.max(FEW) {
            return;
        }
        self.identities.clear();
        self.known.retain(|text| Arc::strong_count(text) > 1);
        self.limit = self.known.len() * 2;
    }
}
