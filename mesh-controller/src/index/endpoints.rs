//! A Service and its slices, or the pods that its selector finds, make a service.

use mesh_model::{Endpoint, Phase, PortMap, Service};

use super::facts::{PodFact, ServiceFact, SliceFact, Target, matches};
use super::{Index, ObjectName, in_namespace};

impl Index {
    pub(super) fn make_service(&self, name: &ObjectName) -> Option<Service> {
        let service = self.services.get(name)?;
        let mut ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let from = (name.0.clone(), name.1.clone(), "".into());
        let slices = self
            .slices
            .range(from..)
            .take_while(|((namespace, owner, _), _)| *namespace == name.0 && *owner == name.1)
            .map(|(_, slice)| slice);
        let mut slices = slices.peekable();
        let endpoints = match slices.peek() {
            Some(_) => slices.flat_map(|slice| self.endpoints_of_slice(service, slice)).collect(),
            None => self.endpoints_of_selector(service),
        };
        Some(Service {
            key: service.key.clone(),
            addresses: service.addresses.clone(),
            ports,
            endpoints: each_address_once(endpoints),
            affinity_seconds: 0,
            local_only: false,
        })
    }

    fn endpoints_of_selector(&self, service: &ServiceFact) -> Vec<Endpoint> {
        // An empty selector selects nothing here: such a Service's endpoints are somebody else's to write.
        if service.selector.is_empty() {
            return Vec::new();
        }
        in_namespace(&self.pods, &service.key.namespace)
            .map(|(_, pod)| pod)
            .filter(|pod| matches(&service.selector, &pod.labels) && serves(pod, service))
            .flat_map(|pod| {
                let ports = ports_of_pod(service, pod);
                pod.addresses.iter().map(move |address| Endpoint {
                    workload: Some(pod.uid.clone()),
                    ports: ports.clone(),
                    ..Endpoint::at(*address)
                })
            })
            .filter(|endpoint| !endpoint.ports.is_empty())
            .collect()
    }

    fn endpoints_of_slice(&self, service: &ServiceFact, slice: &SliceFact) -> Vec<Endpoint> {
        let ports: Vec<PortMap> = service
            .ports
            .iter()
            .filter_map(|port| {
                let target = slice.ports.iter().find(|target| target.name == port.name)?;
                Some(PortMap { service: port.port, target: target.port })
            })
            .collect();
        let mut endpoints = Vec::new();
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref();
            let pod = pod.and_then(|to| self.pods.get(&(to.namespace.clone(), to.name.clone())));
            // The slice may be older than the pod's end.
            if pod.is_some_and(|pod| matches!(pod.phase, Phase::Finished | Phase::Terminating)) {
                continue;
            }
            for address in &endpoint.addresses {
                endpoints.push(Endpoint {
                    workload: pod.map(|pod| pod.uid.clone()),
                    ports: ports.clone(),
                    ..Endpoint::at(*address)
                });
            }
        }
        endpoints.retain(|endpoint| !endpoint.ports.is_empty());
        endpoints
    }
}

fn serves(pod: &PodFact, service: &ServiceFact) -> bool {
    pod.phase == Phase::Running && (pod.ready || service.publish_not_ready)
}

fn ports_of_pod(service: &ServiceFact, pod: &PodFact) -> Vec<PortMap> {
    let target = |target: &Target| match target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod.ports.get(name).copied(),
    };
    service
        .ports
        .iter()
        .filter_map(|port| Some(PortMap { service: port.port, target: target(&port.target)? }))
        .collect()
}

/// Slices may overlap while they are rebalanced; of two endpoints at one address the first stands.
fn each_address_once(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut known = std::collections::HashSet::with_capacity(endpoints.len());
    endpoints.retain(|endpoint| known.insert(endpoint.address));
    endpoints
}
