//! Addresses that two running pods claim at once: nobody's until one of them lets go.
//!
//! An agent gives such an address no identity and refuses to dial it. Here only: who is to be told, once, until it is over and
//! happens again. A pod that is going away while its address is another's already is the ordinary course of things and is not
//! told (its agents refuse meanwhile all the same).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use mesh_model::{Phase, Uid, Workload};

/// What the controller itself has to say of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Of which pod.
    pub uid: Uid,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

/// Who claims what.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claimants: HashMap<IpAddr, BTreeSet<Uid>>,
    /// Claimants of contested addresses that have been told.
    told: BTreeSet<(IpAddr, Uid)>,
    /// Addresses whose claimants are others than at the last look.
    dirty: BTreeSet<IpAddr>,
}

/// Addresses that a pod claims: it runs, or is about to.
fn claims(workload: &Workload) -> &[IpAddr] {
    match workload.phase {
        Phase::Pending | Phase::Running => workload.owned_addresses(),
        Phase::Terminating | Phase::Finished => &[],
    }
}

impl Claims {
    /// A workload is another than before.
    pub(super) fn change(&mut self, old: Option<&Workload>, new: Option<&Workload>) {
        for (workload, there) in [(old, false), (new, true)] {
            let Some(workload) = workload else { continue };
            for address in claims(workload) {
                let claimants = self.claimants.entry(*address).or_default();
                let different = if there {
                    claimants.insert(workload.uid.clone())
                } else {
                    claimants.remove(&workload.uid)
                };
                if claimants.is_empty() {
                    self.claimants.remove(address);
                }
                if different {
                    self.dirty.insert(*address);
                }
            }
        }
    }

    /// What there is to be said of the changes since the last look, one remark a pod. `name` says a pod's name.
    pub(super) fn remarks(&mut self, name: impl Fn(&Uid) -> String) -> Vec<Remark> {
        let mut news = BTreeSet::new();
        for address in std::mem::take(&mut self.dirty) {
            let none = BTreeSet::new();
            let claimants = self.claimants.get(&address).filter(|all| all.len() > 1).unwrap_or(&none);
            self.told.retain(|(of, uid)| *of != address || claimants.contains(uid));
            for uid in claimants {
                if self.told.insert((address, uid.clone())) {
                    news.insert((address, uid.clone()));
                }
            }
        }
        self.said_of(&news, name)
    }

    /// What there is to be said of everything that is contested.
    pub(super) fn standing(&self, name: impl Fn(&Uid) -> String) -> Vec<Remark> {
        self.said_of(&self.told, name)
    }

    fn said_of(&self, contests: &BTreeSet<(IpAddr, Uid)>, name: impl Fn(&Uid) -> String) -> Vec<Remark> {
        let mut pods: BTreeMap<&Uid, (BTreeSet<IpAddr>, BTreeSet<&Uid>)> = BTreeMap::new();
        for (address, uid) in contests {
            let (addresses, others) = pods.entry(uid).or_default();
            addresses.insert(*address);
            others.extend(self.claimants.get(address).into_iter().flatten().filter(|other| *other != uid));
        }
        let remark = |(uid, (addresses, others)): (&Uid, (BTreeSet<IpAddr>, BTreeSet<&Uid>))| {
            let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
            let others: Vec<_> = others.into_iter().map(&name).collect();
            let note = format!(
                "address {} is also pod {}'s: it has no identity, and is refused to captured pods, until one of them lets go; \
                 delete the one that does not answer there",
                addresses.join(", "),
                others.join(", ")
            );
            Remark { uid: uid.clone(), reason: "ContestedAddress", note }
        };
        pods.into_iter().map(remark).collect()
    }
}
