//! A service and its endpoints, to the wire and back.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_model::{Endpoint, PortMap, Service, ServiceKey, Uid};

use super::{Name, Reader, ResourceError, encode_address, encode_prefix, strings};
use crate::proto;

pub(super) fn encode(service: &Service) -> proto::Service {
    proto::Service {
        namespace: service.key.namespace.as_ref().into(),
        name: service.key.name.as_ref().into(),
        addresses: service.addresses.iter().map(encode_address).collect(),
        ports: service.ports.iter().copied().map(u32::from).collect(),
        endpoints: service.endpoints.iter().map(encode_endpoint).collect(),
        affinity_seconds: service.affinity_seconds,
        local_only: service.local_only,
        external_addresses: service.external_addresses.iter().map(encode_address).collect(),
        load_balancer_addresses: service.load_balancer_addresses.iter().map(encode_address).collect(),
        source_ranges: service.source_ranges.iter().map(encode_prefix).collect(),
        other_proxy: service.other_proxy.as_deref().unwrap_or_default().into(),
        untouched: service.untouched.iter().map(ToString::to_string).collect(),
    }
}

fn encode_endpoint(endpoint: &Endpoint) -> proto::Endpoint {
    proto::Endpoint {
        address: encode_address(&endpoint.address),
        workload: endpoint.workload.as_ref().map(|uid| uid.as_str().to_owned()).unwrap_or_default(),
        ready: endpoint.ready,
        ports: endpoint
            .ports
            .iter()
            .map(|map| proto::PortMap { service: map.service.into(), target: map.target.into() })
            .collect(),
        node: endpoint.node.as_deref().unwrap_or_default().into(),
        for_zones: strings(&endpoint.for_zones),
        for_nodes: strings(&endpoint.for_nodes),
    }
}

pub(super) fn decode(name: &Name, message: proto::Service) -> Result<Service, ResourceError> {
    let read = Reader(name);
    let key = ServiceKey::new(read.text("namespace", &message.namespace)?, read.text("name", &message.name)?);
    if *name != Name::of_service(&key) {
        return Err(read.error("name", format!("{key}, of another service")));
    }
    let ports = message.ports.iter().map(|port| read.port("ports", *port)).collect::<Result<Vec<_>, _>>()?;
    let mut places = Places::default();
    let endpoint = |endpoint| decode_endpoint(&read, endpoint, &mut places);
    let endpoints = message.endpoints.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
    let range = |range| read.prefix("source_ranges", range);
    let untouched = |word: &String| {
        word.parse().map_err(|error: mesh_model::NotUntouched| read.error("untouched", error.to_string()))
    };
    Ok(Service {
        key,
        addresses: read.addresses("addresses", &message.addresses)?,
        external_addresses: read.addresses("external_addresses", &message.external_addresses)?,
        load_balancer_addresses: read
            .addresses("load_balancer_addresses", &message.load_balancer_addresses)?,
        source_ranges: message.source_ranges.iter().map(range).collect::<Result<_, _>>()?,
        ports,
        endpoints,
        affinity_seconds: message.affinity_seconds,
        local_only: message.local_only,
        other_proxy: (!message.other_proxy.is_empty()).then(|| message.other_proxy.as_str().into()),
        untouched: message.untouched.iter().map(untouched).collect::<Result<_, _>>()?,
    })
}

fn decode_endpoint(
    read: &Reader<'_>,
    endpoint: &proto::Endpoint,
    places: &mut Places,
) -> Result<Endpoint, ResourceError> {
    let mut ports = Vec::with_capacity(endpoint.ports.len());
    for map in &endpoint.ports {
        ports.push(PortMap {
            service: read.port("endpoints.ports.service", map.service)?,
            target: read.port("endpoints.ports.target", map.target)?,
        });
    }
    Ok(Endpoint {
        address: read.address("endpoints.address", &endpoint.address)?,
        workload: (!endpoint.workload.is_empty()).then(|| Uid::new(&endpoint.workload)),
        ready: endpoint.ready,
        ports,
        node: (!endpoint.node.is_empty()).then(|| places.get(&endpoint.node)),
        for_zones: endpoint.for_zones.iter().map(|zone| places.get(zone)).collect(),
        for_nodes: endpoint.for_nodes.iter().map(|node| places.get(node)).collect(),
    })
}

/// Names of nodes and zones, each held once for all endpoints of a Service.
#[derive(Default)]
struct Places(HashSet<Arc<str>>);

impl Places {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}
