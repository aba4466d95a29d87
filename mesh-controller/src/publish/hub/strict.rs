//! Whom `mtls: Strict` would cut, as far as the world and the agents know.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use mesh_model::ServiceKey;

use super::Hub;

/// Ways into the mesh that carry no identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bare {
    /// Services, and their ports, with a pod behind that would refuse plaintext.
    pub ports: BTreeSet<(ServiceKey, u16)>,
    /// Those of them that clients outside the cluster reach.
    pub exposed: BTreeSet<ServiceKey>,
    /// Who came in plaintext in the last hour: `SOURCE to NAMESPACE/WORKLOAD:PORT`.
    pub callers: BTreeSet<String>,
}

impl Hub {
    /// What strict would cut.
    pub fn bare(&self) -> Bare {
        let mut state = self.state();
        let (observed, _) = state.observed.rows(Instant::now(), SystemTime::now());
        let index = &state.index;
        let ports = index.strict_ports();
        let is_behind =
            |key: &ServiceKey| ports.range((key.clone(), 0)..=(key.clone(), u16::MAX)).next().is_some();
        let exposed = index.exposed_services().into_iter().filter(is_behind).collect();
        let mut callers = BTreeSet::new();
        for row in observed.iter().filter(|row| row.identity.is_none()) {
            let Some(pod) = index.workload(&row.uid) else { continue };
            let source = row.source.as_ref().and_then(|uid| index.workload(uid));
            // It is in the mesh by now.
            if source.is_some_and(|source| source.tunnel.is_hbone())
                || !index.would_refuse_plaintext(pod, row.port)
            {
                continue;
            }
            let source = source.map_or_else(
                || row.address.to_string(),
                |source| format!("{}/{}", source.namespace, source.owner),
            );
            callers.insert(format!("{source} to {}/{}:{}", pod.namespace, pod.owner, row.port));
        }
        Bare { ports, exposed, callers }
    }
}
