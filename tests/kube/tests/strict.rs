//! Promise: whom `mtls: Strict` would cut is said before it does; and what a policy would cut, before it is applied.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube_tests::Cluster;
use kube_tests::traffic::{Traffic, once};
use lab::row::Table;
use lab::{Pod, eventually};
use serde_json::{Value, json};

const NAME: &str = "who_would_be_cut_is_said_before";
/// Agents tell within seconds, and the leader looks every half minute.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn who_would_be_cut_is_said_before() {
    if !kube_tests::ready(NAME) {
        return;
    }
    Cluster::builder().node("a").run(|cluster| {
        let mut table = Table::new(NAME);
        cluster.namespace("shop").captured()?;
        let web = cluster.pod("shop/web").node("a").label("app", "web").service_account("web").start()?;
        let cart = cluster.pod("shop/cart").node("a").service_account("cart").start()?;
        let stranger = cluster.pod("yard/stranger").node("a").start()?;
        cluster.await_captured(&web)?;
        cluster.await_captured(&cart)?;
        cluster.await_peers_tunnel(&web)?;
        let service = cluster.service("shop/web").port(443, 8443).select("app", "web").create()?;
        // What another API server would have chosen.
        let patch = json!([
            {"op": "replace", "path": "/spec/type", "value": "NodePort"},
            {"op": "add", "path": "/spec/ports/0/nodePort", "value": 30_443},
        ]);
        let patch = ["--type", "json", "--patch", &patch.to_string()];
        cluster.api().kubectl(&[&["patch", "service", "web", "--namespace", "shop"][..], &patch].concat())?;
        stand_in(cluster, "admissionregistration.k8s.io", "ValidatingWebhookConfiguration", &webhook())?;
        stand_in(cluster, "apiregistration.k8s.io", "APIService", &api_service())?;
        let server = Traffic::start(&web, 8443, &[])?;
        let to = (web.v4(), 8443).into();
        let dial = |from: &Pod| eventually(PATIENCE, || once(from, to).map_err(|error| format!("{error:#}")));
        dial(&stranger)?;
        dial(&cart)?;

        table.row("Permissive: the MeshConfig says what Strict would cut", || {
            accepted(
                cluster,
                &[
                    "would cut",
                    "ValidatingWebhookConfiguration checks (Service shop/web)",
                    "APIService v1.numbers.example.test (Service shop/web)",
                    "of the Services shop/web",
                    "yard/stranger to shop/web:8443",
                ],
                "shop/cart",
            )
        });
        table.row("a port that stays open is not named", || {
            let open = json!([{"namespaces": ["shop"], "ports": [8443], "mtls": "Permissive"}]);
            mesh_config(cluster, &json!({"mtls": "Strict", "mtlsOverrides": open}))?;
            accepted(cluster, &["in force"], "ValidatingWebhookConfiguration")?;
            dial(&stranger)?;
            Ok(String::new())
        });
        table.row("Strict: what it cuts is named, and cut", || {
            mesh_config(cluster, &json!({"mtls": "Strict", "mtlsOverrides": []}))?;
            accepted(cluster, &["Strict cuts", "checks (Service shop/web)"], "shop/cart")?;
            // It is said before the last agent has it.
            let cut = || once(&stranger, to).map_or(Ok(()), |_| Err("still admitted".to_owned()));
            eventually(PATIENCE, cut)?;
            for _ in 0..5 {
                ensure!(once(&stranger, to).is_err(), "admitted again");
            }
            dial(&cart)?;
            Ok(String::new())
        });
        mesh_config(cluster, &json!({"mtls": "Permissive", "mtlsOverrides": []}))?;
        dial(&stranger)?;
        table.row("policy test: whom a policy would cut, live and from a dump", || tried(cluster));
        server.stop()?;
        service.delete()?;
        table.finish();
        Ok(())
    });
}

/// The API server of these tests is a small one, which serves neither kind: a definition of the same name stands in.
fn stand_in(cluster: &Cluster, group: &str, kind: &str, object: &Value) -> Result<()> {
    let plural = format!("{}s", kind.to_lowercase());
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, of a test"},
        },
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    cluster.objects().apply(&definition)?;
    eventually(PATIENCE, || cluster.objects().apply(object).map_err(|error| format!("{error:#}")))?;
    Ok(())
}

fn api_service() -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.numbers.example.test"},
        "spec": {
            "group": "numbers.example.test", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
            "service": {"namespace": "shop", "name": "web", "port": 443},
        },
    })
}

fn webhook() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "checks"},
        "webhooks": [{
            "name": "checks.example.test",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "clientConfig": {"service": {"namespace": "shop", "name": "web", "path": "/"}},
            "rules": [{"apiGroups": ["none.example.test"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["nothings"]}],
        }],
    })
}

fn mesh_config(cluster: &Cluster, spec: &Value) -> Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    cluster.api().kubectl(&["patch", "meshconfig", "default", "--type", "merge", "--patch", &patch])?;
    Ok(())
}

/// Waits until the condition `Accepted` is about this generation, says all of these, and not that.
fn accepted(cluster: &Cluster, words: &[&str], not: &str) -> Result<String> {
    eventually(PATIENCE, || {
        let text = cluster.api().kubectl(&["get", "meshconfig", "default", "--output", "json"]);
        let object: Value = serde_json::from_str(&text.map_err(|error| format!("{error:#}"))?)
            .map_err(|error| error.to_string())?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions.iter().find(|one| one["type"] == "Accepted").cloned().unwrap_or_default();
        let message = accepted["message"].as_str().unwrap_or_default();
        let fits = accepted["observedGeneration"] == object["metadata"]["generation"]
            && words.iter().all(|word| message.contains(word))
            && !message.contains(not);
        if fits { Ok(message.to_owned()) } else { Err(accepted.to_string()) }
    })
}

/// `meshctl` at the controller's socket: exit code and output.
fn meshctl(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(lab::binary("meshctl")?);
    command.arg("--socket").arg(cluster.controller().admin_socket()).args(arguments);
    let output = command.output().context("meshctl")?;
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    Ok((output.status.code(), text))
}

fn tried(cluster: &Cluster) -> Result<String> {
    let file = cluster.api().directory().join("only-cart.yaml");
    let path = file.to_str().context("a path that is no text")?;
    std::fs::write(
        &file,
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: only-cart, namespace: shop}\nspec:\n  \
         targetRefs: [{kind: Service, name: web}]\n  action: ALLOW\n  rules: [{sources: [{serviceAccount: {name: cart}}]}]\n",
    )?;
    // The agent tells of the last connections within seconds.
    let live = ["policy", "test", "-f", path, "-o", "json"];
    let text = eventually(PATIENCE, || match meshctl(cluster, &live) {
        Ok((Some(1), text)) => Ok(text),
        other => Err(format!("{other:?}")),
    })?;
    let said: Value = serde_json::from_str(&text)?;
    let cut = said["cut"].as_array().context("no list of what is cut")?;
    let is_stranger =
        |one: &&Value| one["source"]["name"] == "stranger" && one["destination"]["port"] == 8443;
    ensure!(cut.iter().any(|one| is_stranger(&one)), "{text}");
    ensure!(!cut.iter().any(|one| one["source"]["name"] == "cart"), "{text}");
    ensure!(said["policies"][0]["change"] == "new" && said["policies"][0]["pods"] == 1, "{text}");

    let (code, dump) = meshctl(cluster, &["policy", "dump"])?;
    ensure!(code == Some(0), "{dump}");
    let world = cluster.api().directory().join("world.json");
    std::fs::write(&world, &dump)?;
    let world = world.to_str().context("a path that is no text")?;
    let (code, offline) = meshctl(cluster, &["policy", "test", "-f", path, "--world", world])?;
    ensure!(code == Some(1) && offline.contains("yard/stranger (plaintext)"), "{offline}");
    let anybody =
        std::fs::read_to_string(&file)?.replace("[{sources: [{serviceAccount: {name: cart}}]}]", "[{}]");
    std::fs::write(&file, anybody)?;
    let (code, nobody) = meshctl(cluster, &["policy", "test", "-f", path, "--world", world])?;
    ensure!(code == Some(0) && nobody.contains("None of"), "{nobody}");
    Ok(offline.lines().last().unwrap_or_default().to_owned())
}
