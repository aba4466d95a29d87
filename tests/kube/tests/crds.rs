//! Weft's own objects at a real API server: definitions and samples are accepted, each documented mistake is refused with words
//! that help, what must not change cannot, and the definitions can be upgraded and outlive their chart.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::{Context as _, Result, bail};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, CustomResourceExt as _};
use kube_tests::{ApiServer, block_on};
use lab::row::Table;
use mesh_crd::{MeshConfig, NodeState};
use serde_json::{Value, json};
use std::time::Duration;

const CHART: &str = "deploy/charts/mesh-crds";

/// An API server that has the definitions.
fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    server.kubectl(&["create", "namespace", "weft-system"]).unwrap();
    server.helm(&["install", "weft-crds", CHART, "--namespace", "weft-system"]).unwrap();
    for crd in [MeshConfig::crd_name(), NodeState::crd_name()] {
        let crd = format!("crd/{crd}");
        server.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &crd]).unwrap();
    }
    served(&server);
    server
}

/// A definition that is established may not be served for another moment.
fn served(server: &ApiServer) {
    lab::eventually(Duration::from_secs(60), || {
        server
            .kubectl(&["get", "authorizationpolicies,meshconfigs,nodestates"])
            .map_err(|error| format!("{error:#}"))
    })
    .unwrap();
}

/// MeshConfigs with no type between us and the API server.
fn configs(server: &ApiServer) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("weft.dev", "v1alpha1", "MeshConfig");
    Api::all_with(server.client().unwrap(), &ApiResource::from_gvk(&kind))
}

fn object(name: &str, spec: &Value) -> DynamicObject {
    let value = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(value).unwrap()
}

/// Tries to create one as people do, and leaves nothing behind.
fn create(server: &ApiServer, name: &str, spec: &Value) -> Result<(), String> {
    let path = server.directory().join("config.json");
    std::fs::write(&path, serde_json::to_string(&object(name, spec)).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    let said = server.kubectl(&["create", "--dry-run=server", "--validate=strict", "--filename", path]);
    said.map(drop).map_err(|error| format!("{error:#}"))
}

#[test]
fn definitions_and_samples_are_accepted() {
    let server = server();
    let said = server.kubectl(&["apply", "--filename", "deploy/samples/kubernetes/meshconfig.yaml"]).unwrap();
    assert!(said.contains("meshconfig.weft.dev/default created"), "{said}");
    let said = server.kubectl(&["apply", "--filename", "deploy/samples/kubernetes/shop.yaml"]).unwrap();
    assert_eq!(said.matches("created").count(), 13, "{said}");
    let kept = block_on(configs(&server).get("default")).unwrap();
    let spec: MeshConfig = serde_json::from_value(serde_json::to_value(kept).unwrap()).unwrap();
    spec.settings().unwrap();
}

#[test]
fn each_mistake_is_refused_with_words_that_help() {
    let server = server();
    let mut table = Table::new("each_mistake_is_refused_with_words_that_help");
    let many: Vec<String> =
        (0..257).map(|number| format!("10.{}.{}.0/24", number / 256, number % 256)).collect();
    for (mistake, name, spec, words) in [
        ("another name", "mine", json!({}), &["named \"default\""][..]),
        ("an unknown field", "default", json!({"trustDoman": "a"}), &["spec.trustDoman", "unknown field"]),
        (
            "a trust domain with spiffe://",
            "default",
            json!({"trustDomain": "spiffe://x"}),
            &["spec.trustDomain", "without spiffe://"],
        ),
        ("a trust domain in capitals", "default", json!({"trustDomain": "Cluster.Local"}), &["lower-case"]),
        ("an empty trust domain", "default", json!({"trustDomain": ""}), &["spec.trustDomain"]),
        (
            "an address for a CIDR",
            "default",
            json!({"excludedCIDRs": ["10.0.0.0"]}),
            &["spec.excludedCIDRs[0]", "10.0.0.0 is no CIDR", "10.0.0.0/8"],
        ),
        (
            "a prefix too long",
            "default",
            json!({"excludedCIDRs": ["fd00::/8", "10.0.0.0/33"]}),
            &["spec.excludedCIDRs[1]", "10.0.0.0/33 is no CIDR"],
        ),
        (
            "one CIDR twice",
            "default",
            json!({"excludedCIDRs": ["fd00::/8", "fd00::/8"]}),
            &["spec.excludedCIDRs[1]", "Duplicate value"],
        ),
        ("too many CIDRs", "default", json!({"excludedCIDRs": many}), &["spec.excludedCIDRs", "at most 256"]),
        (
            "port 0",
            "default",
            json!({"excludedPorts": [0]}),
            &["spec.excludedPorts[0]", "greater than or equal to 1"],
        ),
        (
            "port 65536",
            "default",
            json!({"excludedPorts": [65536]}),
            &["spec.excludedPorts[0]", "less than or equal to 65535"],
        ),
        (
            "a port that is a word",
            "default",
            json!({"excludedPorts": ["ssh"]}),
            &["spec.excludedPorts[0]", "should match", "ssh"],
        ),
        (
            "a range up to 70000",
            "default",
            json!({"excludedPorts": [22, "60000-70000"]}),
            &["spec.excludedPorts[1]", "should match"],
        ),
        (
            "a namespace that is none",
            "default",
            json!({"bootstrapNamespaces": ["kube_system"]}),
            &["spec.bootstrapNamespaces[0]", "kube_system cannot be the name of a namespace"],
        ),
        (
            "unknownPods: ignore",
            "default",
            json!({"unknownPods": "ignore"}),
            &["spec.unknownPods", "\"refuse\", \"allow\""],
        ),
        (
            "preCaptureSockets: close",
            "default",
            json!({"preCaptureSockets": "close"}),
            &["spec.preCaptureSockets", "\"reset\", \"keep\""],
        ),
        (
            "keyCache: none",
            "default",
            json!({"keyCache": "none"}),
            &["spec.keyCache", "\"memory\", \"disk\""],
        ),
        ("logFormat: xml", "default", json!({"logFormat": "xml"}), &["spec.logFormat", "\"text\", \"json\""]),
        (
            "kubelet port 0",
            "default",
            json!({"kubeletPort": 0}),
            &["spec.kubeletPort", "greater than or equal to 1"],
        ),
        (
            "a kubelet port as text",
            "default",
            json!({"kubeletPort": "10250"}),
            &["spec.kubeletPort", "must be of type integer"],
        ),
        (
            "a lifetime that is a word",
            "default",
            json!({"certificateLifetime": "soon"}),
            &["spec.certificateLifetime", "soon is no time", "24h"],
        ),
        ("a lifetime with no unit", "default", json!({"certificateLifetime": "3600"}), &["3600 is no time"]),
        (
            "a lifetime of 59 s",
            "default",
            json!({"certificateLifetime": "59s"}),
            &["59s is not between 1m and 90d"],
        ),
        (
            "a lifetime of 90 d and a second",
            "default",
            json!({"certificateLifetime": "90d1s"}),
            &["90d1s is not between 1m and 90d"],
        ),
        (
            "a profile of metrics that is none",
            "default",
            json!({"metrics": {"profile": "lots"}}),
            &["spec.metrics.profile", "\"service\", \"workload\", \"full\""],
        ),
        (
            "999 series",
            "default",
            json!({"metrics": {"maxSeries": 999}}),
            &["spec.metrics.maxSeries", "greater than or equal to 1000"],
        ),
        (
            "access lines of some",
            "default",
            json!({"accessLog": {"mode": "Some"}}),
            &["spec.accessLog.mode", "\"Off\", \"Refused\", \"All\""],
        ),
        (
            "a sample of more than all",
            "default",
            json!({"accessLog": {"sample": 1.5}}),
            &["spec.accessLog.sample", "less than or equal to 1"],
        ),
        (
            "a duration that is a word",
            "default",
            json!({"accessLog": {"minDuration": "long"}}),
            &["spec.accessLog.minDuration", "long"],
        ),
        (
            "access lines of a namespace that is none",
            "default",
            json!({"accessLog": {"namespaces": ["kube_system"]}}),
            &["spec.accessLog.namespaces[0]"],
        ),
        (
            "an unknown field of the access log",
            "default",
            json!({"accessLog": {"samples": 1}}),
            &["spec.accessLog.samples", "unknown field"],
        ),
    ] {
        table.row(mistake, || match create(&server, name, &spec) {
            Ok(()) => bail!("accepted"),
            Err(said) => match words.iter().find(|word| !said.contains(**word)) {
                Some(word) => bail!("does not say {word:?}: {said}"),
                None => Ok(said),
            },
        });
    }
    table.finish();
}

#[test]
fn what_is_at_the_edge_is_accepted_and_converts() {
    let server = server();
    let mut table = Table::new("what_is_at_the_edge_is_accepted_and_converts");
    let many: Vec<String> = (0..256).map(|number| format!("10.0.{number}.0/24")).collect();
    for (edge, spec) in [
        ("nothing set", json!({})),
        ("ports at the ends", json!({"excludedPorts": [1, 65535, "1-65535", "443", "65535-65535"]})),
        ("256 CIDRs", json!({"excludedCIDRs": many})),
        (
            "CIDRs of both families, and with host bits",
            json!({"excludedCIDRs": ["10.1.2.3/8", "::/0", "fd00::1/128"]}),
        ),
        ("a minute", json!({"certificateLifetime": "1m"})),
        ("90 days", json!({"certificateLifetime": "90d"})),
        ("a sum", json!({"certificateLifetime": "1d12h30m5s"})),
        ("hours and minutes", json!({"certificateLifetime": "1h30m"})),
        ("2160 hours", json!({"certificateLifetime": "2160h"})),
        ("no bootstrap namespaces", json!({"bootstrapNamespaces": []})),
        ("metrics at their least", json!({"metrics": {"profile": "service", "maxSeries": 1000}})),
        (
            "every field of the access log",
            json!({"accessLog": {"mode": "All", "format": "json", "sample": 0.0, "namespaces": ["shop"], "minDuration": "0s"}}),
        ),
        ("a field that is null", json!({"kubeletPort": null, "trustDomain": null})),
    ] {
        table.row(edge, || {
            create(&server, "default", &spec).map_err(anyhow::Error::msg)?;
            let value = serde_json::to_value(object("default", &spec))?;
            let config: MeshConfig = serde_json::from_value(value).context("as our own type")?;
            config.settings()?;
            Ok(String::new())
        });
    }
    table.finish();
}

#[test]
fn the_trust_domain_stays() {
    let server = server();
    let api = configs(&server);
    let one = object("default", &json!({"trustDomain": "one.example"}));
    block_on(api.create(&PostParams::default(), &one)).unwrap();
    let mut table = Table::new("the_trust_domain_stays");
    for (change, patch) in [
        ("changed", json!({"spec": {"trustDomain": "two.example"}})),
        ("taken away", json!({"spec": {"trustDomain": null}})),
    ] {
        table.row(change, || {
            match block_on(api.patch("default", &PatchParams::default(), &Patch::Merge(patch))) {
                Ok(_) => bail!("accepted"),
                Err(error) if error.to_string().contains("trustDomain cannot be") => Ok(error.to_string()),
                Err(error) => bail!("{error}"),
            }
        });
    }
    table.row("everything else changes", || {
        let patch = Patch::Merge(json!({"spec": {"logFormat": "json", "excludedPorts": [22]}}));
        block_on(api.patch("default", &PatchParams::default(), &patch))?;
        Ok(String::new())
    });
    table.finish();
}

#[test]
fn people_see_columns_short_names_and_a_category() {
    let server = server();
    server.kubectl(&["apply", "--filename", "deploy/samples/kubernetes/meshconfig.yaml"]).unwrap();
    let node =
        r#"{"apiVersion":"weft.dev/v1alpha1","kind":"NodeState","metadata":{"name":"node-a"},"spec":{}}"#;
    let path = server.directory().join("node.json");
    std::fs::write(&path, node).unwrap();
    server.kubectl(&["apply", "--filename", path.to_str().unwrap()]).unwrap();
    let status = json!({"status": {
        "agentVersion": "9.9.9", "captured": ["a", "b"], "capturedPods": 2, "left": true, "lastSeen": "2024-01-01T00:00:00Z",
        "conditions": [{"type": "Connected", "status": "False", "reason": "Gone", "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z"}],
    }})
    .to_string();
    let patch =
        ["patch", "nodestate", "node-a", "--subresource=status", "--type=merge", "--patch", status.as_str()];
    server.kubectl(&patch).unwrap();
    let accepted = json!({"status": {"observedGeneration": 1, "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Valid", "message": "in force", "lastTransitionTime": "2024-01-01T00:00:00Z"},
    ]}})
    .to_string();
    let patch =
        ["patch", "mc", "default", "--subresource=status", "--type=merge", "--patch", accepted.as_str()];
    server.kubectl(&patch).unwrap();

    let rows = |arguments: &[&str]| -> Vec<Vec<String>> {
        let said = server.kubectl(arguments).unwrap();
        said.lines()
            .map(|line| {
                line.split("  ").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
            })
            .collect()
    };
    let configs = rows(&["get", "mc"]);
    assert_eq!(configs[0], ["NAME", "ACCEPTED", "TRUST DOMAIN", "AGE"]);
    assert_eq!(configs[1][..3], ["default", "True", "cluster.local"]);
    let nodes = rows(&["get", "wns"]);
    assert_eq!(nodes[0], ["NAME", "AGENT", "CONNECTED", "CAPTURED", "LEFT", "LAST SEEN"]);
    assert_eq!(nodes[1][..5], ["node-a", "9.9.9", "False", "2", "true"]);
    let all = server.kubectl(&["get", "weft", "--output", "name"]).unwrap();
    assert!(
        all.contains("meshconfig.weft.dev/default") && all.contains("nodestate.weft.dev/node-a"),
        "{all}"
    );
    // The status is its own: writing the spec does not touch it.
    server.kubectl(&["apply", "--filename", path.to_str().unwrap()]).unwrap();
    assert_eq!(rows(&["get", "wns"])[1][..5], ["node-a", "9.9.9", "False", "2", "true"]);
}

#[test]
fn definitions_are_upgraded_and_outlive_their_chart() {
    let server = server();
    server.kubectl(&["apply", "--filename", "deploy/samples/kubernetes/meshconfig.yaml"]).unwrap();
    server.helm(&["upgrade", "weft-crds", CHART, "--namespace", "weft-system"]).unwrap();
    server.helm(&["uninstall", "weft-crds", "--namespace", "weft-system"]).unwrap();
    assert!(server.kubectl(&["get", "meshconfig", "default"]).is_ok(), "the object went with the chart");
    // A chart takes over what it left; told not to keep it, it takes it along.
    let take = ["install", "weft-crds", CHART, "--namespace", "weft-system", "--set", "keep=false"];
    server.helm(&take).unwrap();
    server.helm(&["uninstall", "weft-crds", "--namespace", "weft-system"]).unwrap();
    lab::eventually(Duration::from_secs(60), || match server.kubectl(&["get", "crd", "--output", "name"]) {
        Ok(names) if names.contains("weft.dev") => Err(names),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    })
    .unwrap();
}
