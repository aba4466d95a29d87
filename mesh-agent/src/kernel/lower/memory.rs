//! Which class the addresses of a workload are of, remembered: to ask a thousand policies whether they are about a workload, for
//! each of ten thousand, at every update, would take seconds.
//!
//! ```text
//! workload as it is (its Arc) ─▶ class, by family
//!   otherwise: namespace and what it lists ─▶ class, by family
//!     otherwise: ask the policies
//! ```
//!
//! Holds as long as the policies are the same ones. Not here: what holds between classes (`pairs`).

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_model::policy::{Bindings, Mtls};
use mesh_model::{Workload, World};

use super::numbers::{Classes, Numbers};
use super::policies::{DestinationClass, Version, Work};

/// What was found out under the policies that there are.
#[derive(Default)]
pub(super) struct Memory {
    policies: Vec<Version>,
    mtls: Mtls,
    /// Some policy asks for addresses.
    by_address: bool,
    kinds: HashMap<Kind, Numbered>,
    workloads: HashMap<AsItIs, Numbered>,
}

/// Classes of IPv4 and IPv6 addresses; 0: no policy is about them; `None`: nobody has asked yet.
type Numbered = [Option<u32>; 2];

/// All workloads that policies cannot tell apart.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    namespace: Arc<str>,
    bindings: Option<Box<Bindings>>,
}

/// A workload as it is: when anything of it changes it is another one.
struct AsItIs(Arc<Workload>);

impl PartialEq for AsItIs {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AsItIs {}

impl Hash for AsItIs {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl Memory {
    /// Whether a world's policies are still those that were asked.
    pub(super) fn is_of(&self, world: &World) -> bool {
        let mut known = self.policies.iter();
        self.mtls == mtls(world)
            && world.policies().all(|policy| known.next().is_some_and(|known| known.is(policy)))
            && known.next().is_none()
    }

    /// Forgets everything if the policies are others.
    pub(super) fn turn_to(&mut self, world: &World) {
        if !self.is_of(world) {
            *self = Self {
                policies: world.policies().map(Version::new).collect(),
                mtls: mtls(world),
                by_address: world.policies().any(|policy| policy.asks_for_address()),
                ..Self::default()
            };
        }
    }

    /// Some policy asks for addresses.
    pub(super) fn asks_for_address(&self) -> bool {
        self.by_address
    }

    /// The class of a workload's addresses of a family; 0: no policy is about them; `None`: it has no number.
    pub(super) fn class(
        &mut self,
        world: &World,
        workload: &Arc<Workload>,
        ipv6: bool,
        classes: &mut Classes<DestinationClass>,
        numbers: &mut Numbers,
        work: &mut Work,
    ) -> Option<u32> {
        let family = usize::from(ipv6);
        let known = self.workloads.entry(AsItIs(workload.clone())).or_default();
        if known[family].is_none() {
            let kind = Kind { namespace: workload.namespace.clone(), bindings: workload.bindings.clone() };
            let of_kind = self.kinds.entry(kind).or_default();
            if of_kind[family].is_none() {
                work.classes += 1;
                of_kind[family] = match DestinationClass::of(world, workload, ipv6) {
                    Some(class) => classes.number(class, numbers),
                    None => Some(0),
                };
            }
            known[family] = of_kind[family];
        }
        known[family]
    }

    /// Forgets classes that nobody is of: their numbers are gone.
    pub(super) fn forget_classes(&mut self, used: &HashSet<u32>) {
        for numbers in self.workloads.values_mut().chain(self.kinds.values_mut()) {
            for number in numbers {
                *number = number.filter(|number| *number == 0 || used.contains(number));
            }
        }
    }

    /// Forgets workloads that are gone, when there may be as many of them as are there.
    pub(super) fn forget_workloads(&mut self, world: &World, there: usize) {
        if self.workloads.len() > 2 * there + 64 {
            let is_there =
                |old: &Arc<Workload>| world.workload(&old.uid).is_some_and(|now| Arc::ptr_eq(now, old));
            self.workloads.retain(|AsItIs(old), _| is_there(old));
            self.kinds.clear();
        }
    }
}

fn mtls(world: &World) -> Mtls {
    world.mesh().and_then(|mesh| mesh.mtls).unwrap_or_default()
}
