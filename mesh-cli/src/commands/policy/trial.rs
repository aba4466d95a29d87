//! What policies that are not there yet would do to the connections of the last hour.
//!
//! ```text
//! a controller's world ─┬─▶ judged as it is ───────────────────────┐
//!                       └─▶ with the policies of a file ─▶ judged ─┴─▶ what is different
//! ```
//!
//! Both are judged by the one function that agents judge by. Pure. A policy of the file takes the place of the one of its name; one
//! in mode Audit cuts nothing, and is said to audit. Connections to pods that are gone are not judged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use mesh_crd::AuthorizationPolicy;
use mesh_crd::authorization_policy::{Authored, Target, Within};
use mesh_crd::network_policy;
use mesh_model::policy::{Bindings, Judgement, Peer, PolicyKey, Verdict};
use mesh_model::{Change, Identity, Uid, Workload, World};
use mesh_telemetry::api::{DumpedWorkload, ObservedRow, Timestamp, WorldDump};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// What would be different.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Trial {
    /// What the file says, in its order.
    pub(crate) policies: Vec<Tried>,
    /// Which connections are alike, by who, whom and where.
    pub(crate) observed: usize,
    /// Connections that there was no room to remember.
    pub(crate) unobserved: u64,
    /// Observed and not judged: the pod is gone.
    pub(crate) gone: usize,
    /// Admitted now, and refused then.
    pub(crate) cut: Vec<Changed>,
    /// Refused now, and admitted then.
    pub(crate) admitted: Vec<Changed>,
    /// Admitted then, and refused if a policy in mode Audit were enforced.
    pub(crate) audited: Vec<Changed>,
}

/// A policy of the file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tried {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `new`, `changed` or `unchanged`.
    pub(crate) change: &'static str,
    /// Pods of the mesh that it is about.
    pub(crate) pods: usize,
    /// What is probably not what was meant.
    pub(crate) warnings: Vec<String>,
}

/// Connections that are judged differently.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Changed {
    pub(crate) source: Source,
    pub(crate) destination: Destination,
    pub(crate) connections: u64,
    pub(crate) last: Timestamp,
    /// Why, in words.
    pub(crate) because: String,
    /// Which policy decides; `null` where none did.
    pub(crate) policy: Option<Decider>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Source {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) identity: Option<Identity>,
    pub(crate) address: IpAddr,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Decider {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) rule: Option<usize>,
}

/// Judges every observation twice.
pub(crate) fn run(dump: &WorldDump, file: &[AuthorizationPolicy]) -> Result<Trial, String> {
    let authored = file
        .iter()
        .map(|policy| {
            let name = policy.metadata.name.as_deref().unwrap_or("(without a name)");
            policy
                .authored(&dump.trust_domain, &dump.system_namespace)
                .map_err(|error| format!("policy {name}: {error}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let now = world(dump, dump.workloads.iter().map(|dumped| dumped.workload.clone()));
    let behind = behind(dump);
    let rebound = dump.workloads.iter().map(|dumped| rebound(dumped, &authored, &behind));
    let mut then = world(dump, rebound);
    authored.iter().for_each(|authored| then.apply(Change::Policy(authored.policy.clone())));
    let mut trial = Trial {
        policies: authored.iter().map(|authored| tried(authored, &now, &then)).collect(),
        observed: dump.observed.len(),
        unobserved: dump.unobserved,
        gone: 0,
        cut: Vec::new(),
        admitted: Vec::new(),
        audited: Vec::new(),
    };
    for row in &dump.observed {
        let (Some(before), Some(after)) = (now.workload(&row.uid), then.workload(&row.uid)) else {
            trial.gone += 1;
            continue;
        };
        let peer = Peer { identity: row.identity.as_ref(), address: row.address };
        let (before, after) = (now.judge(before, peer, row.port), then.judge(after, peer, row.port));
        let changed = |verdict: &Verdict<'_>| changed(row, &now, verdict);
        match (before.verdict.is_allowed(), after.verdict.is_allowed()) {
            (true, false) => trial.cut.extend(changed(&after.verdict)),
            (false, true) => trial.admitted.extend(changed(&after.verdict)),
            (_, false) => {}
            (true, true) => {
                if let Some(audit) = refused_by_audit(&after)
                    && refused_by_audit(&before).is_none()
                {
                    trial.audited.extend(changed(audit));
                }
            }
        }
    }
    Ok(trial)
}

fn refused_by_audit<'a>(judgement: &'a Judgement<'a>) -> Option<&'a Verdict<'a>> {
    judgement.audit.as_ref().filter(|audit| !audit.is_allowed())
}

fn world(dump: &WorldDump, workloads: impl Iterator<Item = Workload>) -> World {
    let mut world = World::default();
    workloads.for_each(|workload| world.apply(Change::Workload(workload)));
    dump.policies.iter().for_each(|policy| world.apply(Change::Policy(policy.clone())));
    if let Some(mesh) = &dump.mesh {
        world.apply(Change::Mesh(mesh.clone()));
    }
    world.set_complete();
    world
}

/// Pods by Service.
type Behind<'a> = HashMap<(&'a str, &'a str), HashSet<&'a Uid>>;

fn behind(dump: &WorldDump) -> Behind<'_> {
    let of = |service| -> HashSet<&Uid> { HashSet::from_iter(service) };
    let services = dump.services.iter();
    services.map(|one| ((one.namespace.as_str(), one.name.as_str()), of(&one.pods))).collect()
}

/// The workload as it would be if the policies were there.
fn rebound(dumped: &DumpedWorkload, authored: &[Authored], behind: &Behind<'_>) -> Workload {
    let mut workload = dumped.workload.clone();
    let mut bindings = workload.bindings.take().map(|bindings| *bindings).unwrap_or_default();
    for one in authored {
        let key = &one.policy.key;
        bindings.policies.retain(|listed| listed != key);
        let selected = one.targets.iter().any(|target| match target {
            Target::Pods(within, selector) => {
                let here = match within {
                    Within::Mesh => true,
                    Within::Namespace(namespace) => **namespace == *workload.namespace,
                };
                here && network_policy::matches(selector, &dumped.labels)
            }
            Target::Service(service) => {
                let pods = behind.get(&(&*service.namespace, &*service.name));
                pods.is_some_and(|pods| pods.contains(&workload.uid))
            }
        });
        if selected {
            bindings.policies.push(key.clone());
        }
    }
    bindings.policies.sort_unstable();
    workload.bindings = (bindings != Bindings::default()).then(|| Box::new(bindings));
    workload
}

fn tried(authored: &Authored, now: &World, then: &World) -> Tried {
    let key: &PolicyKey = &authored.policy.key;
    let pods = |world: &World| {
        let is_about = |workload: &Workload| {
            workload.enrolled && world.rules_for(workload).policies.iter().any(|policy| policy.key == *key)
        };
        world.workloads().filter(|workload| is_about(workload)).map(|workload| workload.uid.clone()).collect()
    };
    let (before, after): (HashSet<Uid>, HashSet<Uid>) = (pods(now), pods(then));
    let change = match now.policy(key) {
        None => "new",
        Some(old) if **old == authored.policy && before == after => "unchanged",
        Some(_) => "changed",
    };
    let mut warnings = authored.warnings.clone();
    if after.is_empty() {
        warnings.push("it is about no pod of the mesh".into());
    }
    Tried {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        change,
        pods: after.len(),
        warnings,
    }
}

fn changed(row: &ObservedRow, world: &World, verdict: &Verdict<'_>) -> Option<Changed> {
    let destination = world.workload(&row.uid)?;
    let source = row.source.as_ref().and_then(|uid| world.workload(uid));
    Some(Changed {
        source: Source {
            namespace: source.map(|source| source.namespace.to_string()),
            name: source.map(|source| source.name.to_string()),
            identity: row.identity.clone(),
            address: row.address,
        },
        destination: Destination {
            namespace: destination.namespace.to_string(),
            name: destination.name.to_string(),
            port: row.port,
        },
        connections: row.connections,
        last: row.last,
        because: verdict.to_string(),
        policy: verdict.decided_by().map(|(key, rule)| Decider {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            rule,
        }),
    })
}

/// The policies that a file holds, and how many other objects it does.
pub(crate) fn read(text: &str) -> Result<(Vec<AuthorizationPolicy>, usize), String> {
    let (mut policies, mut others) = (Vec::new(), 0);
    for (number, document) in (1..).zip(documents(text)) {
        let value: serde_json::Value = serde_saphyr::from_str(&document)
            .map_err(|error| format!("document {number}: {}", first_line(&error.to_string())))?;
        if value.is_null() {
            continue;
        }
        let items = match (value["kind"].as_str(), value["items"].as_array()) {
            (Some("List" | "AuthorizationPolicyList"), Some(items)) => items.clone(),
            _ => vec![value],
        };
        for item in items {
            let kind = (item["apiVersion"].as_str(), item["kind"].as_str());
            match kind {
                (Some("weft.dev/v1alpha1"), Some("AuthorizationPolicy")) => policies.push(
                    serde_json::from_value(item).map_err(|error| format!("document {number}: {error}"))?,
                ),
                (_, None) => return Err(format!("document {number}: kind is missing")),
                (_, Some(_)) => others += 1,
            }
        }
    }
    match policies.is_empty() {
        true => Err("there is no AuthorizationPolicy (apiVersion: weft.dev/v1alpha1) in it".into()),
        false => Ok((policies, others)),
    }
}

/// Cut apart at lines that begin with `---`.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    let is_empty =
        |text: &String| text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    all.retain(|text| !is_empty(text));
    all
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// How often each policy decides.
pub(crate) fn deciders(changed: &[Changed]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for one in changed {
        let name = match &one.policy {
            Some(policy) => format!("{}/{}", policy.namespace, policy.name),
            None => "the mode of mutual TLS".to_owned(),
        };
        *counts.entry(name).or_default() += one.connections;
    }
    counts
}
