//! What the charts grant is enough, and no more than is used: over a cluster's whole life no request of Weft's accounts is
//! refused, and every verb that they may use was used, or has its reason below.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::ListParams;
use kube_tests::{Cluster, Request, block_on};
use lab::{SYSTEM_NAMESPACE, eventually};
use serde_json::Value;

/// Verbs that a life without accidents does not need: `group/resource verb`, and what does.
const RARE: &[(&str, &str)] = &[
    ("coordination.k8s.io/leases delete", "a replica that is stopped and takes its own Lease along"),
    ("/configmaps patch", "other roots than before: tests/rotation.rs"),
    ("events.k8s.io/events patch", "an Event that happens once more"),
    (
        "weft.dev/meshconfigs create",
        "an uninstall where somebody took the MeshConfig away: tests/uninstall.rs",
    ),
    ("weft.dev/meshconfigs delete", "the same, once every node has left"),
];

/// What somebody may do: group, resource, verb.
type Right = (String, String, String);

#[test]
fn weft_may_do_what_it_does_and_nothing_else() {
    if !kube_tests::ready("weft_may_do_what_it_does_and_nothing_else") {
        return;
    }
    Cluster::builder().node("a").node("b").replicas(2).run(|cluster| {
        let granted = granted(cluster)?;
        live(cluster)?;
        let all = cluster.api().audit()?;
        // Helm takes the rights away before the accounts, and the controllers run on until their pods are collected.
        let taken = all.iter().position(is_the_end).context("nothing was uninstalled")?;
        let asked: Vec<&Request> = all.iter().filter(|asked| is_ours(asked)).collect();
        ensure!(!asked.is_empty(), "no request of Weft's in the audit log");
        let refused: BTreeSet<String> = all[..taken]
            .iter()
            .filter(|asked| is_ours(asked) && asked.code == 403)
            .map(|asked| format!("{} {}", asked.verb, asked.uri))
            .collect();
        ensure!(refused.is_empty(), "refused: {refused:#?}");
        let right =
            |asked: &Request, verb: &str| (asked.group.clone(), asked.resource.clone(), verb.to_owned());
        let mut used: BTreeSet<Right> = asked.iter().map(|asked| right(asked, &asked.verb)).collect();
        // Applying what is not there creates it, and is asked for both.
        used.extend(asked.iter().filter(|asked| asked.code == 201).map(|asked| right(asked, "create")));
        let rare = |(group, resource, verb): &&Right| {
            RARE.iter().any(|(right, _)| *right == format!("{group}/{resource} {verb}"))
        };
        let idle: Vec<&Right> = granted.difference(&used).filter(|right| !rare(right)).collect();
        ensure!(idle.is_empty(), "granted and not used: {idle:#?}");
        Ok(())
    });
}

/// The first right that Helm takes from a controller.
fn is_the_end(asked: &Request) -> bool {
    asked.verb == "delete" && asked.resource == "rolebindings" && asked.name == "weft-controller"
}

fn is_ours(asked: &Request) -> bool {
    asked.user.starts_with(&format!("system:serviceaccount:{SYSTEM_NAMESPACE}:weft-"))
}

/// What the rules of the chart's roles say, those of the hook that runs at the end too.
fn granted(cluster: &Cluster) -> Result<BTreeSet<Right>> {
    let hooks = cluster.api().helm(&["get", "hooks", "weft", "--namespace", SYSTEM_NAMESPACE])?;
    let mut roles = Vec::new();
    for document in hooks.split("\n---") {
        let object: Value = serde_saphyr::from_str(document).unwrap_or_default();
        roles.push(object);
    }
    for (kind, namespace) in [("ClusterRole", ""), ("Role", SYSTEM_NAMESPACE)] {
        let api = cluster.objects().api("rbac.authorization.k8s.io/v1", kind, namespace)?;
        let there = block_on(api.list(&ListParams::default()))?;
        let ours = |name: &Option<String>| name.as_deref().is_some_and(|name| name.starts_with("weft"));
        for role in there.into_iter().filter(|role| ours(&role.metadata.name)) {
            let mut role_value = role.data.clone();
            role_value["kind"] = kind.into();
            roles.push(role_value);
        }
    }
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let mut granted = BTreeSet::new();
    for role in roles.iter().filter(|role| matches!(role["kind"].as_str(), Some("ClusterRole" | "Role"))) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    for verb in words(&rule["verbs"]) {
                        granted.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    ensure!(!granted.is_empty(), "the charts grant nothing");
    Ok(granted)
}

/// A cluster's life: pods come and go, one is talked about, a node is taken away, the mesh is uninstalled.
fn live(cluster: &Cluster) -> Result<()> {
    cluster.namespace("shop").captured()?;
    let web = cluster.pod("shop/web").node("b").label("app", "web").service_account("web").start()?;
    cluster.await_captured(&web)?;
    cluster.await_peers_tunnel(&web)?;
    // A sandboxed runtime cannot be captured: an Event says so.
    cluster.pod("shop/boxed").node("a").runtime_class("kata").start()?;
    eventually(Duration::from_secs(30), || {
        let events =
            cluster.api().kubectl(&["get", "events.events.k8s.io", "--namespace", "shop", "-o", "name"]);
        match events {
            Ok(events) if !events.trim().is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .context("an Event")?;
    // A policy has a status.
    let policy = serde_json::json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "nobody", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": "web"}}}], "action": "ALLOW"},
    });
    cluster.objects().apply(&policy)?;
    eventually(Duration::from_secs(30), || {
        let status = "jsonpath={.status.conditions[*].type}";
        match cluster.api().kubectl(&[
            "get",
            "authorizationpolicy",
            "nobody",
            "--namespace",
            "shop",
            "-o",
            status,
        ]) {
            Ok(types) if types.contains("Accepted") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .context("the status of a policy")?;
    web.delete()?;
    // A node that goes takes its state along, once it has one.
    let states = |cluster: &Cluster| -> Result<Vec<String>, String> {
        let names = cluster.api().kubectl(&["get", "nodestates", "-o", "name"]);
        Ok(names.map_err(|error| format!("{error:#}"))?.lines().map(str::to_owned).collect())
    };
    let of_b = |names: &[String]| names.iter().any(|name| name.ends_with("/b"));
    eventually(Duration::from_secs(60), || match states(cluster)? {
        names if of_b(&names) => Ok(()),
        names => Err(format!("{names:?}")),
    })
    .context("the state of a node")?;
    cluster.agent("b").kill();
    cluster.api().kubectl(&["delete", "node", "b"])?;
    eventually(Duration::from_secs(30), || match states(cluster)? {
        names if !of_b(&names) => Ok(()),
        names => Err(format!("{names:?}")),
    })
    .context("the state of a node that is gone")?;
    cluster.api().helm(&["uninstall", "weft", "--namespace", SYSTEM_NAMESPACE, "--timeout", "90s"])?;
    cluster.collect()
}
