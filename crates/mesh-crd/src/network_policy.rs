//! NetworkPolicies that would cut tunnels: the cluster's own, as the controller and `meshctl` see them.
//!
//! Between two captured pods everything travels to port 15008 of the destination, whatever port the application dialled. A
//! policy that was written for the application's ports lets nothing of that through. So a pair of captured pods is *cut*
//! where some policy admits the one to the other on some TCP port, and none admits it to 15008. A pair that is not admitted
//! at all is as its operator wants it, and is not reported.
//!
//! Pure: objects in, findings out. Pods with the same labels are judged once. Not here: policies of other makers (Cilium's,
//! Calico's own kinds), which nobody but they can read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[cfg(test)]
mod tests;

/// Where tunnels arrive.
pub const HBONE: u16 = 15008;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its namespace, which is the namespace of the pods that it selects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: NetworkPolicySpec,
}

/// There is nothing in a policy that is not equal to itself: numbers are whole.
impl Eq for Policy {}

/// A captured pod (or one that is to be).
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its addresses, if it has some.
    pub addresses: &'a [IpAddr],
}

/// Which half of a policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What comes to the pods it selects.
    Ingress,
    /// What they dial.
    Egress,
}

/// A policy that cuts tunnels, with one pair of pods that shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// By which of its halves.
    pub direction: Direction,
    /// Who dials: `NAMESPACE/POD`.
    pub from: String,
    /// Who is dialled: `NAMESPACE/POD`.
    pub to: String,
}

/// Every policy that cuts tunnels between these pods, once for each direction. `namespaces` are the labels of each.
pub fn cuts(
    policies: &[Policy],
    namespaces: &BTreeMap<String, Labels>,
    captured: &[Subject<'_>],
) -> Vec<Cut> {
    let world = World { namespaces, classes: classes(captured) };
    let mut cuts: BTreeMap<(String, String, Direction), Cut> = BTreeMap::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for own in &world.classes {
            let selecting: Vec<&Policy> = policies.iter().filter(|p| selects(p, own, direction)).collect();
            if selecting.is_empty() {
                continue;
            }
            for peer in &world.classes {
                for policy in world.cutting(&selecting, peer, direction) {
                    let (from, to) = match direction {
                        Direction::Ingress => (peer, own),
                        Direction::Egress => (own, peer),
                    };
                    let key = (policy.namespace.clone(), policy.name.clone(), direction);
                    cuts.entry(key).or_insert_with(|| Cut {
                        namespace: policy.namespace.clone(),
                        name: policy.name.clone(),
                        direction,
                        from: format!("{}/{}", from.namespace, from.name),
                        to: format!("{}/{}", to.namespace, to.name),
                    });
                }
            }
        }
    }
    cuts.into_values().collect()
}

struct World<'a> {
    namespaces: &'a BTreeMap<String, Labels>,
    classes: Vec<Subject<'a>>,
}

impl World<'_> {
    /// Which of the policies of one pod admit a peer to something and leave it without 15008.
    fn cutting<'p>(
        &self,
        selecting: &[&'p Policy],
        peer: &Subject<'_>,
        direction: Direction,
    ) -> Vec<&'p Policy> {
        let mut admitting = Vec::new();
        for policy in selecting {
            for (peers, ports) in rules(&policy.spec, direction) {
                if !self.is_meant(policy, peers, peer) {
                    continue;
                }
                if ports.is_empty() || ports.iter().any(|port| covers(port, HBONE)) {
                    return Vec::new();
                }
                if ports.iter().any(is_tcp) {
                    admitting.push(*policy);
                    break;
                }
            }
        }
        admitting
    }

    /// Whether a rule's peers hold a pod. No peers at all: everybody.
    fn is_meant(&self, policy: &Policy, peers: &[NetworkPolicyPeer], pod: &Subject<'_>) -> bool {
        peers.is_empty() || peers.iter().any(|peer| self.holds(policy, peer, pod))
    }

    fn holds(&self, policy: &Policy, peer: &NetworkPolicyPeer, pod: &Subject<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            let within = |cidr: &String| {
                cidr.parse::<IpNet>()
                    .is_ok_and(|net| pod.addresses.iter().any(|address| net.contains(address)))
            };
            return within(&block.cidr) && !block.except.iter().flatten().any(within);
        }
        let namespace = match &peer.namespace_selector {
            Some(selector) => match self.namespaces.get(pod.namespace) {
                Some(labels) => matches(selector, labels),
                None => matches(selector, &Labels::new()),
            },
            None => policy.namespace == pod.namespace,
        };
        namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.labels))
    }
}

/// One pod for all with the same namespace and labels: policies cannot tell them apart, but for their addresses.
fn classes<'a>(pods: &[Subject<'a>]) -> Vec<Subject<'a>> {
    let mut known = BTreeSet::new();
    // A new revision of a Deployment is no other kind of pod.
    let kind = |pod: &Subject<'a>| {
        let labels = pod.labels.iter().filter(|(key, _)| *key != "pod-template-hash");
        (pod.namespace, labels.collect::<Vec<_>>())
    };
    pods.iter().filter(|pod| known.insert(kind(pod))).copied().collect()
}

fn selects(policy: &Policy, pod: &Subject<'_>, direction: Direction) -> bool {
    let spec = &policy.spec;
    let word = match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    };
    let has_it = match &spec.policy_types {
        Some(types) if !types.is_empty() => types.iter().any(|kind| kind == word),
        // Without the list: ingress always, egress where there is a rule for it.
        _ => direction == Direction::Ingress || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    };
    let selected = spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.labels));
    has_it && policy.namespace == pod.namespace && selected
}

type Rule<'a> = (&'a [NetworkPolicyPeer], &'a [NetworkPolicyPort]);

fn rules(spec: &NetworkPolicySpec, direction: Direction) -> Vec<Rule<'_>> {
    match direction {
        Direction::Ingress => spec
            .ingress
            .iter()
            .flatten()
            .map(|rule| (rule.from.as_deref().unwrap_or_default(), rule.ports.as_deref().unwrap_or_default()))
            .collect(),
        Direction::Egress => spec
            .egress
            .iter()
            .flatten()
            .map(|rule| (rule.to.as_deref().unwrap_or_default(), rule.ports.as_deref().unwrap_or_default()))
            .collect(),
    }
}

fn is_tcp(port: &NetworkPolicyPort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

fn covers(port: &NetworkPolicyPort, number: u16) -> bool {
    let number = i32::from(number);
    is_tcp(port)
        && match &port.port {
            None => true,
            Some(IntOrString::Int(first)) => (*first..=port.end_port.unwrap_or(*first)).contains(&number),
            // A named port is one of the application's containers, and 15008 is none.
            Some(IntOrString::String(_)) => false,
        }
}

/// Whether labels meet a selector. An empty selector is met by all; an operator that is not known, by none.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = || value.is_some_and(|value| expression.values.iter().flatten().any(|v| v == value));
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "NetworkPolicy {}/{} admits {} to {} on some port and not on TCP port {HBONE}, through which captured pods \
             reach each other: allow {HBONE} in its {} rules",
            self.namespace, self.name, self.from, self.to, self.direction
        )
    }
}
