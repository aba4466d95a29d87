//! Who may talk to whom: policies, and the one function that judges a connection by them.
//!
//! ```text
//! strict mTLS and no identity ─▶ refused
//! a DENY policy's rule matches ─▶ refused
//! no ALLOW policy at all ──────▶ admitted
//! an ALLOW policy's rule matches ─▶ admitted, else refused
//! ```
//!
//! A [`Policy`] here is what the controller made of an `AuthorizationPolicy`: service accounts and namespaces have become
//! patterns of identities, targets have become [`Reach`] or are listed by the workloads themselves ([`Bindings`]). A verdict
//! names the policy and the rule that decided, so that a log line, a metric and `meshctl explain` say the same.
//!
//! Semantics that people trip over, each a row of the truth table in docs/policy.md and in the tests: a source with an
//! identity condition, negated or not, never matches a peer without identity in ALLOW, and a negated one always does in
//! DENY; an empty list of sources matches nobody, a missing one everybody; ports are the pod's; what only a waypoint can see
//! counts as matched in DENY and as not matched in ALLOW.
//!
//! Pure, and without order: policies are judged in the order of their names. Not here: which policies are a workload's
//! ([`crate::World::rules_for`]).

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Identity, Reason};

mod judge;
mod mtls;
mod pattern;
mod words;

#[cfg(test)]
mod tests;

pub use judge::{Judgement, Peer, Rules, judge, judge_all};
pub use mtls::{Mtls, PortMtls};
pub use pattern::{IdentityPattern, NotAPattern, Pattern};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The policy's name.
    pub name: Arc<str>,
}

/// What becomes of a connection that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// It is admitted, and what no ALLOW policy matches is not.
    Allow,
    /// It is refused.
    Deny,
}

/// Whether a policy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It does not: what would be different if it did is logged and counted.
    Audit,
}

/// Whose connections a policy is about, beside the workloads that list it ([`Bindings`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Every workload of the mesh.
    pub mesh: bool,
    /// Every workload of these namespaces.
    pub namespaces: Vec<Arc<str>>,
}

/// A policy, as every agent has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Which one.
    pub key: PolicyKey,
    /// Whom it is about.
    pub reach: Reach,
    /// What a match means.
    pub action: Action,
    /// Whether it counts.
    pub mode: Mode,
    /// It matches what any of them matches; none: nothing.
    pub rules: Vec<Rule>,
}

/// Matches a connection from any of the sources to any of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `None`: anybody. Empty: nobody.
    pub sources: Option<Vec<Source>>,
    /// The pod's own ports, each range ordered; empty: any.
    pub ports: Vec<RangeInclusive<u16>>,
    /// It also has a condition that only a waypoint can look at.
    pub layer7: bool,
}

/// Matches a peer that meets all of `all` and, of each list in `none`, not all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// All of them hold.
    pub all: Vec<Condition>,
    /// None of these lists holds in whole.
    pub none: Vec<Vec<Condition>>,
}

/// One thing that is asked of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Its authenticated identity fits the pattern.
    Identity(IdentityPattern),
    /// Its address is in the block.
    Address(IpBlock),
}

/// Addresses: a prefix without some of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpBlock {
    /// In here,
    pub net: IpNet,
    /// and in none of these.
    pub except: Vec<IpNet>,
}

/// What a workload's own resource says of policies; most workloads have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bindings {
    /// Policies that select it by its labels or by a Service, sorted.
    pub policies: Vec<PolicyKey>,
    /// Ports at which plaintext is (or is not) taken, whatever the mesh says; the first that holds a port counts.
    pub mtls: Vec<PortMtls>,
}

/// Whether a connection is admitted, and what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// No ALLOW policy is about the destination, and no DENY policy matched.
    Unpoliced,
    /// A rule of an ALLOW policy matched.
    Allowed(&'a Policy, usize),
    /// A rule of a DENY policy matched.
    Denied(&'a Policy, usize),
    /// ALLOW policies are about the destination, this one among them, and none matched.
    Unmatched(&'a Policy),
    /// The destination takes no plaintext at this port.
    Strict,
    /// The destination lists this policy, and nobody here knows what it says.
    Missing(&'a PolicyKey),
}

impl Verdict<'_> {
    /// Whether the connection is admitted.
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Unpoliced | Self::Allowed(..) => true,
            Self::Denied(..) | Self::Unmatched(_) | Self::Strict | Self::Missing(_) => false,
        }
    }

    /// Why it is not, in the one list of words.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Unpoliced | Self::Allowed(..) => None,
            Self::Denied(..) => Some(Reason::PolicyDenied),
            Self::Unmatched(_) => Some(Reason::PolicyNotAllowed),
            Self::Strict => Some(Reason::PlaintextRefused),
            Self::Missing(_) => Some(Reason::PolicyUnknown),
        }
    }

    /// The policy that decided, and the number of its rule, from 0, if one matched.
    pub fn decided_by(&self) -> Option<(&PolicyKey, Option<usize>)> {
        match self {
            Self::Allowed(policy, rule) | Self::Denied(policy, rule) => Some((&policy.key, Some(*rule))),
            Self::Unmatched(policy) => Some((&policy.key, None)),
            Self::Missing(key) => Some((key, None)),
            Self::Unpoliced | Self::Strict => None,
        }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpoliced => f.write_str("no policy is about it"),
            Self::Allowed(policy, rule) => write!(f, "rule {rule} of ALLOW policy {} matches", policy.key),
            Self::Denied(policy, rule) => write!(f, "rule {rule} of DENY policy {} matches", policy.key),
            Self::Unmatched(policy) => {
                write!(f, "no ALLOW policy matches (policy {} is one that is about it)", policy.key)
            }
            Self::Strict => f.write_str("no plaintext is taken there (mtls: Strict)"),
            Self::Missing(key) => {
                write!(f, "this node's agent does not know policy {key}, which is about it")
            }
        }
    }
}

impl Policy {
    /// Whether nobody can ever match it, whatever the world: then it is probably not what was meant.
    pub fn never_matches(&self) -> bool {
        self.rules.iter().all(|rule| match &rule.sources {
            None => false,
            Some(sources) => sources.iter().all(Source::never_matches),
        })
    }
}

impl Source {
    /// Whether it asks for an identity, negated or not.
    pub fn asks_for_identity(&self) -> bool {
        let is_identity = |condition: &Condition| matches!(condition, Condition::Identity(_));
        self.all.iter().any(is_identity) || self.none.iter().flatten().any(is_identity)
    }

    fn never_matches(&self) -> bool {
        self.all.iter().any(|condition| match condition {
            Condition::Identity(pattern) => pattern.never_matches(),
            Condition::Address(block) => block.except.iter().any(|except| except.contains(&block.net)),
        })
    }
}

impl IpBlock {
    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.net.contains(&address) && !self.except.iter().any(|net| net.contains(&address))
    }
}

impl Condition {
    /// Whether a peer meets it; one without identity meets no pattern.
    pub fn holds(&self, identity: Option<&Identity>, address: IpAddr) -> bool {
        match self {
            Self::Identity(pattern) => identity.is_some_and(|identity| pattern.matches(identity)),
            Self::Address(block) => block.contains(address),
        }
    }
}

impl PolicyKey {
    /// Names a policy.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PolicyKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::new(namespace, name))
            }
            _ => Err("not of the form NAMESPACE/NAME"),
        }
    }
}

impl Action {
    /// As objects write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
        }
    }
}

impl Mode {
    /// As objects write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "Enforce",
            Self::Audit => "Audit",
        }
    }
}
