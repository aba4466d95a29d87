//! Services: an address that stands for the ready pods with certain labels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::eventually;
use crate::kubeproxy::Forward;
use crate::lab::{Lab, PATIENCE, World};
use crate::objects::{self, Words};
use crate::pod::Pod;

/// What a Service is made of.
#[derive(Clone, Debug)]
pub(crate) struct ServiceSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) selector: Words,
    /// Port of the Service, port of the pods.
    pub(crate) ports: Vec<(u16, u16)>,
}

impl ServiceSpec {
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(crate) fn object(&self) -> String {
        let addresses = [IpAddr::V4(self.v4), IpAddr::V6(self.v6)];
        objects::service(&self.namespace, &self.name, &addresses, &self.selector, &self.ports)
    }

    /// What kube-proxy has to do for it, given all pods.
    pub(crate) fn forwards(&self, pods: &[Arc<Pod>]) -> Vec<Forward> {
        let backends: Vec<&Arc<Pod>> = pods.iter().filter(|pod| pod.serves(self)).collect();
        let mut forwards = Vec::new();
        for (port, target) in &self.ports {
            for address in [IpAddr::V4(self.v4), IpAddr::V6(self.v6)] {
                let endpoints = backends
                    .iter()
                    .flat_map(|pod| pod.addresses())
                    .filter(|endpoint| endpoint.is_ipv4() == address.is_ipv4())
                    .map(|endpoint| SocketAddr::new(endpoint, *target));
                forwards.push(Forward {
                    service: SocketAddr::new(address, *port),
                    endpoints: endpoints.collect(),
                });
            }
        }
        forwards
    }
}

/// A Service to be made.
#[derive(Debug)]
pub struct ServiceBuilder {
    world: Arc<World>,
    name: String,
    selector: Words,
    ports: Vec<(u16, u16)>,
}

impl ServiceBuilder {
    pub(crate) fn new(world: Arc<World>, name: &str) -> Self {
        Self { world, name: name.to_owned(), selector: Words::new(), ports: Vec::new() }
    }

    /// Port of the Service, and the pods' own port for it.
    #[must_use]
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push((port, target));
        self
    }

    /// Pods of its namespace with this label (all of them, if called more than once).
    #[must_use]
    pub fn select(mut self, key: &str, value: &str) -> Self {
        self.selector.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Makes it: object and kube-proxy.
    pub fn create(self) -> Result<Service> {
        let (namespace, name) =
            self.name.split_once('/').with_context(|| format!("{:?} is not NAMESPACE/NAME", self.name))?;
        self.world.ensure_namespace(namespace)?;
        let number = self.world.next_service();
        let [high, low] = number.to_be_bytes();
        let spec = ServiceSpec {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            v4: Ipv4Addr::new(10, 96, high, low),
            v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number),
            selector: self.selector,
            ports: self.ports,
        };
        self.world.put_service(spec.clone())?;
        Ok(Service { world: self.world, spec })
    }
}

/// A Service that was made.
#[derive(Debug)]
pub struct Service {
    world: Arc<World>,
    spec: ServiceSpec,
}

impl Service {
    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.spec.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.spec.v6
    }

    /// Waits until every agent knows it with so many addresses as endpoints.
    pub fn await_endpoints(&self, lab: &Lab, count: usize) -> Result<()> {
        let address = self.v4().to_string();
        for agent in lab.agents() {
            eventually(PATIENCE, || {
                let services = agent.admin("/v1/services").map_err(|error| format!("{error:#}"))?;
                let known = services.as_array().into_iter().flatten().find(|known| {
                    known["addresses"].as_array().is_some_and(|all| all.iter().any(|one| one == &address))
                });
                match known {
                    Some(known) if known["endpoints"].as_array().is_some_and(|all| all.len() == count) => {
                        Ok(())
                    }
                    Some(known) => Err(known.to_string()),
                    None => Err(format!("the agent on {} does not know {address}", agent.node())),
                }
            })?;
        }
        Ok(())
    }

    /// Takes it away.
    pub fn delete(self) -> Result<()> {
        self.world.remove_service(&self.spec)
    }
}
