//! A Service and its slices, or the pods that its selector finds, make a service.
//!
//! Given out is what kube-proxy would choose from: ready endpoints, and those that terminate and still serve (`ready` is
//! false), which count when no other is ready. The agents choose, each for its own node. Only for a Service that is another
//! proxy's all endpoints are given out, so that agents can tell whether one is in the mesh.

use std::collections::HashSet;
use std::net::IpAddr;

use mesh_model::{Endpoint, Phase, PortMap, Service};

use super::facts::{EndpointState, PodFact, ServiceFact, SliceFact, Target, matches};
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
            external_addresses: service.external_addresses.clone(),
            load_balancer_addresses: service.load_balancer_addresses.clone(),
            source_ranges: service.source_ranges.clone(),
            ports,
            endpoints: each_place_once(endpoints),
            affinity_seconds: service.affinity_seconds,
            local_only: service.local_only,
            other_proxy: service.other_proxy.clone(),
            untouched: service.untouched.clone(),
        })
    }

    /// What Kubernetes would write into slices, where there are none. (Hints, which need the whole cluster, are not made up.)
    fn endpoints_of_selector(&self, service: &ServiceFact) -> Vec<Endpoint> {
        // An empty selector selects nothing here: such a Service's endpoints are somebody else's to write.
        if service.selector.is_empty() {
            return Vec::new();
        }
        in_namespace(&self.pods, &service.key.namespace)
            .map(|(_, pod)| pod)
            .filter(|pod| matches(&service.selector, &pod.labels))
            .filter_map(|pod| Some((pod, ready(service, state_of_pod(service, pod))?)))
            .flat_map(|(pod, ready)| {
                let ports = ports_of_pod(service, pod);
                let node = Some(&pod.node).filter(|node| service.local_only && !node.is_empty());
                pod.addresses.iter().map(move |address| Endpoint {
                    workload: Some(pod.uid.clone()),
                    ready,
                    ports: ports.clone(),
                    node: node.cloned(),
                    ..Endpoint::at(*address)
                })
            })
            .filter(|endpoint| !endpoint.ports.is_empty())
            .collect()
    }

    fn endpoints_of_slice(&self, service: &ServiceFact, slice: &SliceFact) -> Vec<Endpoint> {
        // Slices of another proxy's are not kube-proxy's either.
        if slice.other_proxy && service.other_proxy.is_none() {
            return Vec::new();
        }
        let ports: Vec<PortMap> = service
            .ports
            .iter()
            .filter_map(|port| {
                let target = slice.ports.iter().find(|target| target.name == port.name)?;
                Some(PortMap { service: port.port, target: target.port })
            })
            .collect();
        if ports.is_empty() {
            return Vec::new();
        }
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            let pod = endpoint.pod.as_ref();
            let pod = pod.and_then(|to| self.pods.get(&(to.namespace.clone(), to.name.clone())));
            // The slice may be older than the pod's end.
            let state = match (endpoint.state, pod.map(|pod| pod.phase)) {
                (_, Some(Phase::Finished)) => continue,
                (EndpointState::Ready, Some(Phase::Terminating)) if !service.publish_not_ready => {
                    EndpointState::Draining
                }
                (state, _) => state,
            };
            let Some(ready) = ready(service, state) else { continue };
            endpoints.push(Endpoint {
                address: endpoint.address,
                workload: pod.map(|pod| pod.uid.clone()),
                ready,
                ports: ports.clone(),
                node: endpoint.node.clone().filter(|_| service.local_only),
                for_zones: endpoint.for_zones.clone(),
                for_nodes: endpoint.for_nodes.clone(),
            });
        }
        endpoints
    }
}

/// Whether an endpoint is given out, and as what.
fn ready(service: &ServiceFact, state: EndpointState) -> Option<bool> {
    match state {
        EndpointState::Ready => Some(true),
        EndpointState::Draining => Some(false),
        EndpointState::NotReady => service.other_proxy.as_ref().map(|_| false),
    }
}

fn state_of_pod(service: &ServiceFact, pod: &PodFact) -> EndpointState {
    match pod.phase {
        Phase::Finished => EndpointState::NotReady,
        _ if service.publish_not_ready => EndpointState::Ready,
        Phase::Running if pod.ready => EndpointState::Ready,
        Phase::Terminating if pod.ready => EndpointState::Draining,
        Phase::Pending | Phase::Running | Phase::Terminating => EndpointState::NotReady,
    }
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

/// Slices may overlap while they are rebalanced, and may speak of one address with different ports: of two endpoints for one
/// port at one address and port of its own the first stands.
fn each_place_once(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut known: HashSet<(IpAddr, u16, u16)> = HashSet::with_capacity(endpoints.len());
    let fresh = |mut endpoint: Endpoint| {
        let address = endpoint.address;
        endpoint.ports.retain(|map| known.insert((address, map.service, map.target)));
        (!endpoint.ports.is_empty()).then_some(endpoint)
    };
    endpoints.into_iter().filter_map(fresh).collect()
}
