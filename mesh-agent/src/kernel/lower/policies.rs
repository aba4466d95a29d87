//! Policies: which sources and which destinations none of them tells apart, and what holds between two such classes.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use mesh_common::Verdict;
use mesh_model::policy::{Mtls, Peer, Policy, PolicyKey, PortMtls, Rules};
use mesh_model::{Identity, Workload, World};

/// What a step took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Times that all policies were asked whether they are about a workload.
    pub classes: usize,
    /// Pairs of classes that were judged.
    pub pairs: usize,
}

/// A policy as it is: another one of the same name and words is another.
#[derive(Clone, Debug)]
pub(super) struct Version(Arc<Policy>);

impl Version {
    pub(super) fn new(policy: &Arc<Policy>) -> Self {
        Self(policy.clone())
    }

    /// Whether a policy is this one.
    pub(super) fn is(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.0, policy)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Version {}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// All destinations at which the same connections are admitted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DestinationClass {
    policies: Vec<Version>,
    missing: Option<PolicyKey>,
    mtls: Vec<PortMtls>,
    strict: bool,
    /// Only said where the source's address may make a difference: it is of the same family.
    ipv6: bool,
}

/// All sources that no policy tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SourceClass {
    identity: Identity,
    /// Only said where some policy asks for addresses.
    addresses: Vec<IpAddr>,
}

/// A verdict for each range of ports; together all ports from 1 on, in their order, neighbours different.
pub(super) type ByPort = Vec<(RangeInclusive<u16>, u32)>;

impl DestinationClass {
    /// Of a workload at its addresses of a family; `None`: nothing is ever refused there.
    pub(super) fn of(world: &World, workload: &Workload, ipv6: bool) -> Option<Self> {
        let rules = world.rules_for(workload);
        if rules.admits_all() {
            return None;
        }
        Some(Self {
            policies: rules.policies.iter().map(|policy| Version::new(policy)).collect(),
            missing: rules.missing.cloned(),
            mtls: rules.mtls.to_vec(),
            strict: rules.otherwise == Mtls::Strict,
            ipv6: ipv6 && rules.asks_for_address(),
        })
    }

    /// To judge many sources by.
    pub(super) fn judge(&self) -> Judge<'_> {
        let rules = Rules {
            policies: self.policies.iter().map(|version| &version.0).collect(),
            missing: self.missing.as_ref(),
            mtls: &self.mtls,
            otherwise: if self.strict { Mtls::Strict } else { Mtls::Permissive },
        };
        Judge { by_address: rules.asks_for_address(), ipv6: self.ipv6, starts: rules.boundaries(), rules }
    }
}

/// What holds at a class of destinations, laid out.
pub(super) struct Judge<'a> {
    rules: Rules<'a>,
    by_address: bool,
    ipv6: bool,
    /// Ports from which on it may be something else.
    starts: Vec<u16>,
}

impl Judge<'_> {
    /// What holds for a source, port by port. `None`: who has no identity, whatever the address.
    pub(super) fn verdicts(&self, source: Option<&SourceClass>) -> ByPort {
        let Self { rules, by_address, ipv6, starts } = self;
        let verdict = |port: u16| match source {
            None if rules.mtls_at(port) == Mtls::Strict => Verdict::DENY,
            None if *by_address => Verdict::ASK,
            None => code(rules, Peer { identity: None, address: IpAddr::from([0, 0, 0, 0]) }, port),
            Some(source) => match source.address(*by_address, *ipv6) {
                Some(address) => code(rules, Peer { identity: Some(&source.identity), address }, port),
                None => Verdict::ASK,
            },
        };
        let mut by_port: ByPort = Vec::new();
        for (at, start) in starts.iter().enumerate() {
            let end = starts.get(at + 1).map_or(u16::MAX, |next| next - 1);
            let verdict = verdict(*start);
            match by_port.last_mut() {
                Some((range, last)) if *last == verdict => *range = *range.start()..=end,
                _ => by_port.push((*start..=end, verdict)),
            }
        }
        by_port
    }
}

impl SourceClass {
    /// Of a pod of the node. `by_address`: some policy asks for addresses.
    pub(super) fn of(identity: &Identity, addresses: &[IpAddr], by_address: bool) -> Self {
        let addresses = if by_address { addresses.to_vec() } else { Vec::new() };
        Self { identity: identity.clone(), addresses }
    }

    /// The address that it dials from; any will do where nobody asks.
    fn address(&self, asked: bool, ipv6: bool) -> Option<IpAddr> {
        match asked {
            false => Some(IpAddr::from([0, 0, 0, 0])),
            true => self.addresses.iter().find(|address| address.is_ipv6() == ipv6).copied(),
        }
    }
}

fn code(rules: &Rules<'_>, peer: Peer<'_>, port: u16) -> u32 {
    let judgement = rules.judge(peer, port);
    match (judgement.verdict.is_allowed(), judgement.audit) {
        (true, None) => Verdict::ALLOW,
        (true, Some(_)) => Verdict::ALLOW_AUDITED,
        (false, _) => Verdict::DENY,
    }
}

/// A range of ports as prefixes: bits and first port of each.
pub(super) fn prefixes(range: &RangeInclusive<u16>) -> Vec<(u32, u16)> {
    let (mut at, end) = (u32::from(*range.start()), u32::from(*range.end()));
    let mut found = Vec::new();
    while at <= end {
        // As large as its first port is aligned, and as the end allows.
        let aligned = if at == 0 { 16 } else { at.trailing_zeros().min(16) };
        let fits = (0..=aligned).rev().find(|bits| at + (1 << bits) - 1 <= end).unwrap_or(0);
        found.push((16 - fits, at as u16));
        at += 1 << fits;
    }
    found
}
