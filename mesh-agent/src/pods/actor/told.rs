//! What the actor tells the rest of the agent: which pods are captured here, and which run unguarded.

use std::sync::Arc;

use mesh_telemetry::api::PodRow;

use super::{Actor, Entry};
use crate::kernel::lower::LocalPod;
use crate::pods::local::{Local, Unguarded};
use crate::pods::pod::Pod;

impl Actor {
    /// Says which pods are captured here, and which run unguarded, if that is different.
    pub(super) fn publish_local(&self) {
        let captured = self.entries.values().filter_map(Entry::captured_pod);
        let pods = captured.map(|pod| {
            let Pod { workload, addresses, .. } = &**pod;
            let (uid, identity) = (workload.uid.clone(), workload.identity.clone());
            (pod.netns.cookie(), LocalPod { uid, identity, addresses: addresses.clone() })
        });
        let pods = pods.collect();
        let captured = self.entries.values().filter_map(Entry::captured_pod);
        let netns = captured.map(|pod| (pod.netns.cookie(), pod.netns.clone())).collect();
        let host = self.config.host.inode().ok();
        let mut unguarded: Vec<Unguarded> = self
            .entries
            .iter()
            .filter_map(|(uid, entry)| {
                let why = match entry.cookie() {
                    Some(cookie) if self.node.guards.is_guarded(uid, cookie) => return None,
                    Some(_) => self.node.guards.failure(uid).unwrap_or("not looked at yet").to_owned(),
                    None if entry.may_run_unseen(host) => "its network namespace is not known".to_owned(),
                    None => return None,
                };
                Some(Unguarded { what: format!("pod {}", entry.display(uid)), why })
            })
            .collect();
        unguarded.sort_unstable();
        unguarded.extend(self.config.obstacle.clone());
        let pending = self.entries.values().filter_map(Entry::cookie_of_pending).collect();
        let local = Local { pods, netns, unguarded, pending, whole: self.swept && self.node.told };
        self.config.local.send_if_modified(|known| {
            let differs = **known != local;
            if differs {
                *known = Arc::new(local);
            }
            differs
        });
    }

    /// Every pod that is there.
    pub(super) fn rows(&self) -> Vec<PodRow> {
        let mut rows: Vec<PodRow> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.has_cgroup())
            .map(|(uid, entry)| {
                let workload = entry.workload();
                let (namespace, name) = match (workload, entry.bootstrap()) {
                    (Some(workload), _) => {
                        (Some(workload.namespace.to_string()), Some(workload.name.to_string()))
                    }
                    (None, Some((namespace, name))) => (Some(namespace.clone()), Some(name.clone())),
                    (None, None) => (None, None),
                };
                PodRow {
                    namespace,
                    name,
                    uid: uid.clone(),
                    node: self.config.node.clone(),
                    state: entry.state(),
                    reason: entry.reason(),
                    identity: workload.map(|workload| workload.identity.clone()),
                }
            })
            .collect();
        rows.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        rows
    }
}
