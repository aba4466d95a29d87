//! What has to be done before metrics are read: counts that others hold are fetched.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_common::Counter;
use mesh_model::Workload;

use super::Admin;
use super::bpf::fill;
use crate::metrics::{Inside, Present};

impl Admin {
    /// Brings every metric up to date.
    pub(super) async fn observe(self: &Arc<Self>) {
        self.connections.count_bytes();
        let admin = self.clone();
        // As many rows as there are talkative pods, and now and then every key of the maps; a failure leaves the numbers as
        // they were.
        let _counted = tokio::task::spawn_blocking(move || {
            admin.direct.count();
            admin.metrics.sweep(|| admin.present());
            if admin.insides.is_count_due() {
                admin.insides.counted(&fill(&admin.bpffs));
            }
        })
        .await;
        let pods = self.pods.rows().await;
        let client = self.client.status();
        let complete = self.world.load().is_complete();
        self.observed.refresh(&self.maps, &self.keyring, &pods, client.connected, complete);
        self.observed.world_age(self.cached_age());
        let pool = self.pool.stats().into_iter().fold((0, 0), |(connections, streams), (_, one)| {
            (connections + one.connections, streams + one.streams)
        });
        self.insides.refresh(&Inside {
            series: self.metrics.series(),
            pool,
            handshakes: self.inbound.handshakes.count(),
            client: &client,
            pods: &pods,
            log_dropped: self.connections.access().dropped(),
            endings_lost: self.endings_lost(),
        });
    }

    /// Lines of which the kernel could not tell, since its maps were made.
    pub(super) fn endings_lost(&self) -> u64 {
        let lost = Counter::ALL.iter().find(|(counter, _)| *counter == Counter::EndingsLost);
        self.maps
            .counters()
            .into_iter()
            .find(|(word, _)| lost.is_some_and(|(_, other)| word == other))
            .map_or(0, |(_, count)| count)
    }

    /// Whose pairs go on being shown.
    fn present(&self) -> Present {
        let world = self.world.load();
        let name = |workload: &Workload| (workload.namespace.clone(), workload.owner.clone());
        let local = self.local.borrow().clone();
        let here: HashSet<_> = local
            .pods
            .values()
            .filter_map(|pod| world.workload(&pod.uid))
            .map(|workload| name(workload))
            .collect();
        let anywhere = world.workloads().map(|workload| name(workload)).chain(here.iter().cloned()).collect();
        Present { here, anywhere }
    }
}
