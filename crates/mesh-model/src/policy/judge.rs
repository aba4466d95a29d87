//! Judging one connection by a set of policies.

use std::net::IpAddr;

use std::sync::Arc;

use super::{Action, Condition, Mode, Mtls, Policy, PolicyKey, PortMtls, Rule, Source, Verdict};
use crate::Identity;

/// All that decides on connections to one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules<'a> {
    /// The policies that are about it, in the order of their names, each once.
    pub policies: Vec<&'a Arc<Policy>>,
    /// One that it lists and that is not there: nobody knows what it says, so nothing is admitted.
    pub missing: Option<&'a PolicyKey>,
    /// Where plaintext is taken or not; the first that holds a port counts.
    pub mtls: &'a [PortMtls],
    /// What holds at other ports.
    pub otherwise: Mtls,
}

impl<'a> Rules<'a> {
    /// Whether nothing is ever refused, nor audited.
    pub fn admits_all(&self) -> bool {
        let strict = |one: &PortMtls| one.mtls == Mtls::Strict;
        self.policies.is_empty()
            && self.missing.is_none()
            && self.otherwise == Mtls::Permissive
            && !self.mtls.iter().any(strict)
    }

    /// Whether plaintext is taken at a port.
    pub fn mtls_at(&self, port: u16) -> Mtls {
        let own = self.mtls.iter().find(|one| one.ports.contains(&port));
        own.map_or(self.otherwise, |one| one.mtls)
    }

    /// Judges a connection to one of the workload's own ports.
    pub fn judge(&self, peer: Peer<'_>, port: u16) -> Judgement<'a> {
        if peer.identity.is_none() && self.mtls_at(port) == Mtls::Strict {
            return Judgement { verdict: Verdict::Strict, audit: None };
        }
        match self.missing {
            Some(key) => Judgement { verdict: Verdict::Missing(key), audit: None },
            None => judge_all(self.policies.iter().copied().map(Arc::as_ref), peer, port),
        }
    }

    /// Ports from which on a verdict may be another one, ascending, 1 among them.
    pub fn boundaries(&self) -> Vec<u16> {
        let policies = self.policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.ports);
        let ranges = policies.chain(self.mtls.iter().map(|one| &one.ports));
        let mut starts: Vec<u16> =
            ranges.flat_map(|range| [Some(*range.start()), range.end().checked_add(1)]).flatten().collect();
        starts.push(1);
        starts.retain(|port| *port != 0);
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// Whether the address that somebody dials from may make a difference.
    pub fn asks_for_address(&self) -> bool {
        self.policies.iter().any(|policy| policy.asks_for_address())
    }
}

impl Policy {
    /// Whether the address that somebody dials from may make a difference.
    pub fn asks_for_address(&self) -> bool {
        let sources = self.rules.iter().flat_map(|rule| rule.sources.iter().flatten());
        let mut conditions = sources.flat_map(|source| source.all.iter().chain(source.none.iter().flatten()));
        conditions.any(|condition| matches!(condition, Condition::Address(_)))
    }
}

/// Who dials, as far as the destination knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer<'a> {
    /// Authenticated; `None` for plaintext.
    pub identity: Option<&'a Identity>,
    /// The address that it dials from.
    pub address: IpAddr,
}

/// A verdict, and what it would be if Audit policies counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// What counts.
    pub verdict: Verdict<'a>,
    /// What enforcing the Audit policies would change it to; `None`: nothing.
    pub audit: Option<Verdict<'a>>,
}

/// Judges by the policies that are enforced. `policies` come in the order of their keys.
pub fn judge<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    peer: Peer<'_>,
    port: u16,
) -> Verdict<'a> {
    of_those(policies.filter(|policy| policy.mode == Mode::Enforce), peer, port)
}

/// Judges by the enforced policies, and by all. Only a verdict that admits what was refused, or refuses what was admitted, is
/// another one.
pub fn judge_all<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    peer: Peer<'_>,
    port: u16,
) -> Judgement<'a> {
    let verdict = judge(policies.clone(), peer, port);
    if !policies.clone().any(|policy| policy.mode == Mode::Audit) {
        return Judgement { verdict, audit: None };
    }
    let all = of_those(policies, peer, port);
    let audit = (all.is_allowed() != verdict.is_allowed()).then_some(all);
    Judgement { verdict, audit }
}

fn of_those<'a>(policies: impl Iterator<Item = &'a Policy>, peer: Peer<'_>, port: u16) -> Verdict<'a> {
    let mut verdict = Verdict::Unpoliced;
    for policy in policies {
        let matched = policy.rules.iter().position(|rule| rule.matches(policy.action, peer, port));
        match (policy.action, matched) {
            // Nothing comes before this.
            (Action::Deny, Some(rule)) => return Verdict::Denied(policy, rule),
            (Action::Deny, None) => {}
            (Action::Allow, Some(rule)) if !matches!(verdict, Verdict::Allowed(..)) => {
                verdict = Verdict::Allowed(policy, rule);
            }
            (Action::Allow, None) if matches!(verdict, Verdict::Unpoliced) => {
                verdict = Verdict::Unmatched(policy);
            }
            (Action::Allow, _) => {}
        }
    }
    verdict
}

impl Rule {
    fn matches(&self, action: Action, peer: Peer<'_>, port: u16) -> bool {
        // What only a waypoint can see is matched where that refuses, and not where it admits.
        if self.layer7 && action == Action::Allow {
            return false;
        }
        let port_fits = self.ports.is_empty() || self.ports.iter().any(|range| range.contains(&port));
        port_fits
            && match &self.sources {
                None => true,
                Some(sources) => sources.iter().any(|source| source.matches(action, peer)),
            }
    }
}

impl Source {
    fn matches(&self, action: Action, peer: Peer<'_>) -> bool {
        let Peer { identity, address } = peer;
        if identity.is_none() && action == Action::Allow && self.asks_for_identity() {
            return false;
        }
        // Without an identity a pattern fits nobody, so what is negated holds: in DENY that refuses.
        self.all.iter().all(|condition| condition.holds(identity, address))
            && !self.none.iter().any(|list| list.iter().all(|condition| condition.holds(identity, address)))
    }
}
