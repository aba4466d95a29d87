//! A Service as it is served on one node: with the answers to what its clients ask, kept.
//!
//! Sorting out 1,000 endpoints takes longer than a connect should wait for, so it is done once for each version of a Service,
//! at the first connection to it: 8 bytes an endpoint, port, family and scope, and nothing for a Service that nobody dials.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use super::{Candidate, Here, Question, Scope, Service, usable};
use crate::Reason;

/// What may be chosen, or why nothing may.
type Answer = Result<Box<[Candidate]>, Reason>;

/// A Service, seen from a node.
#[derive(Debug)]
pub struct Served {
    service: Arc<Service>,
    here: Arc<Here>,
    /// Sorted by question.
    answers: OnceLock<Box<[(Question, Answer)]>>,
}

impl Served {
    /// A Service, seen from `here`.
    pub fn new(service: Arc<Service>, here: Arc<Here>) -> Self {
        Self { service, here, answers: OnceLock::new() }
    }

    /// The Service.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The endpoints that a connection may go to, at least one, or why there is none.
    pub fn candidates(&self, question: Question) -> Result<&[Candidate], Reason> {
        if !self.service.ports.contains(&question.port) {
            return Err(Reason::NoServicePort);
        }
        let answers = self.answers.get_or_init(|| self.answer_all());
        let found = answers.binary_search_by_key(&question, |(question, _)| *question).ok();
        match found.and_then(|found| answers.get(found)) {
            Some((_, Ok(candidates))) => Ok(candidates),
            Some((_, Err(reason))) => Err(*reason),
            // A family in which it has no address.
            None => Err(Reason::NoEndpoint),
        }
    }

    /// The same without keeping the answer: whether there is any.
    pub fn check(&self, question: Question) -> Result<(), Reason> {
        if !self.service.ports.contains(&question.port) {
            return Err(Reason::NoServicePort);
        }
        usable(&self.service, &self.here, question).map(drop)
    }

    /// Where a candidate is.
    pub fn target(&self, candidate: Candidate) -> Option<SocketAddr> {
        let endpoint = self.service.endpoints.get(candidate.endpoint as usize)?;
        Some(SocketAddr::new(endpoint.address, candidate.target))
    }

    fn answer_all(&self) -> Box<[(Question, Answer)]> {
        let service = &*self.service;
        let of = |addresses: &[IpAddr]| [false, true].map(|v6| addresses.iter().any(|ip| ip.is_ipv6() == v6));
        let outer: Vec<IpAddr> = service.outer_addresses().collect();
        let (inner, outer) = (of(&service.addresses), of(&outer));
        let mut answers = Vec::new();
        for port in &service.ports {
            for (ipv6, (inner, outer)) in [false, true].into_iter().zip(inner.into_iter().zip(outer)) {
                let mut scopes = Vec::new();
                scopes.extend(inner.then(|| service.internal_scope()));
                // Beside that, not twice.
                scopes.extend((outer && (service.local_only || !inner)).then_some(Scope::Cluster));
                for scope in scopes {
                    let question = Question { port: *port, ipv6, scope };
                    let answer = usable(service, &self.here, question).map(|candidates| candidates.collect());
                    answers.push((question, answer));
                }
            }
        }
        answers.sort_unstable_by_key(|(question, _)| *question);
        answers.dedup_by_key(|(question, _)| *question);
        answers.into()
    }
}
