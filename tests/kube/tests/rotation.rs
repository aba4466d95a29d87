//! Promise: certificates are renewed, and the root is exchanged in its Secret by the documented steps, with traffic flowing;
//! not one connection fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use kube_tests::Cluster;
use kube_tests::traffic::{self, Traffic};
use lab::row::Table;
use lab::{Pod, SYSTEM_NAMESPACE, eventually};
use mesh_identity::{BuiltinAuthority, Roots};
use mesh_model::TrustDomain;
use serde_json::{Value, json};

/// Kubelet's part takes a moment, agents look every two seconds and spread renewals over ten.
const NOTICE: Duration = Duration::from_secs(90);

/// A new root and its key, PEM, and its subject.
fn new_root() -> (String, String, String) {
    let domain = TrustDomain::new(lab::TRUST_DOMAIN).unwrap();
    let (cert, key) = BuiltinAuthority::generate(&domain).unwrap();
    let subject = Roots::from_pem(cert.as_bytes()).unwrap().infos()[0].subject.clone();
    (cert, key, subject)
}

fn patch(cluster: &Cluster, data: &[(&str, &str)]) -> Result<()> {
    let data: BTreeMap<&str, ByteString> =
        data.iter().map(|(key, pem)| (*key, ByteString(pem.as_bytes().to_vec()))).collect();
    let patch = json!({ "data": data }).to_string();
    cluster.api().kubectl(&["-n", SYSTEM_NAMESPACE, "patch", "secret", "weft-ca", "-p", &patch])?;
    Ok(())
}

/// Waits until every agent trusts exactly these, the first of which signs.
fn await_trust(cluster: &Cluster, subjects: &[&str]) -> Result<String> {
    for agent in cluster.agents() {
        eventually(NOTICE, || {
            let bundle = agent.admin("/v1/roots").map_err(|error| format!("{error:#}"))?;
            let roots = bundle["roots"].as_array().cloned().unwrap_or_default();
            let trusted: Vec<&str> = roots.iter().filter_map(|root| root["subject"].as_str()).collect();
            if trusted == subjects { Ok(()) } else { Err(format!("{}: {bundle}", agent.node())) }
        })?;
    }
    Ok(format!("every node trusts {subjects:?}"))
}

/// Waits until every certificate of every node is signed by this one.
fn await_signed(cluster: &Cluster, issuer: &str) -> Result<String> {
    let mut count = 0;
    for agent in cluster.agents() {
        count += eventually(NOTICE, || {
            let certs = agent.certs().map_err(|error| format!("{error:#}"))?;
            let others: Vec<&Value> = certs.iter().filter(|cert| cert["issuer"] != issuer).collect();
            if others.is_empty() { Ok(certs.len()) } else { Err(format!("{}: {others:?}", agent.node())) }
        })?;
    }
    ensure!(count > 0, "there is no certificate");
    Ok(format!("{count} certificates by {issuer}"))
}

/// A pod that was not there before: its handshakes are new ones.
fn new_pod_connects(cluster: &Cluster, name: &str, web: &Pod) -> Result<()> {
    let probe = cluster.pod(&format!("shop/{name}")).node("a").service_account(name).start()?;
    cluster.await_captured(&probe)?;
    traffic::once(&probe, (web.v4(), 8080).into())
}

fn captured(cluster: &Cluster) -> Result<(Arc<Pod>, Arc<Pod>)> {
    cluster.namespace("shop").captured()?;
    let web = cluster.pod("shop/web").node("b").service_account("web").start()?;
    let client = cluster.pod("shop/client").node("a").service_account("client").start()?;
    for pod in [&web, &client] {
        cluster.await_captured(pod)?;
    }
    cluster.await_peers_tunnel(&web)?;
    Ok((web, client))
}

#[test]
fn the_root_is_exchanged_in_its_secret_under_load() {
    if !kube_tests::ready("the_root_is_exchanged_in_its_secret_under_load") {
        return;
    }
    let mut table = Table::new("the root is exchanged in its Secret");
    Cluster::builder().node("a").node("b").replicas(2).run(|cluster| {
        let (web, client) = captured(cluster)?;
        let load = Traffic::start(&web, 8080, &[(&client, web.v4().into(), 8080)])?;
        load.await_more(20)?;
        let bundle = cluster.agent("a").admin("/v1/roots")?;
        let old_subject = bundle["roots"][0]["subject"].as_str().context("a root")?.to_owned();
        let path = "jsonpath={.data.root\\.pem}";
        let old =
            cluster.api().kubectl(&["-n", SYSTEM_NAMESPACE, "get", "configmap", "weft-roots", "-o", path])?;
        let (new, key, subject) = new_root();
        table.row("the new root is trusted beside the old one", || {
            patch(cluster, &[("ca.crt", &format!("{old}{new}"))])?;
            let trusted = await_trust(cluster, &[&old_subject, &subject])?;
            load.await_more(20)?;
            Ok(trusted)
        });
        table.row("the new root signs, and every certificate is renewed", || {
            patch(cluster, &[("tls.crt", &new), ("tls.key", &key)])?;
            new_pod_connects(cluster, "during", &web)?;
            await_trust(cluster, &[&subject, &old_subject])?;
            let signed = await_signed(cluster, &subject)?;
            load.await_more(20)?;
            Ok(signed)
        });
        table.row("the old root is trusted no longer", || {
            patch(cluster, &[("ca.crt", &new)])?;
            let trusted = await_trust(cluster, &[&subject])?;
            new_pod_connects(cluster, "after", &web)?;
            load.await_more(20)?;
            Ok(trusted)
        });
        table.row("not one connection failed", || {
            let (done, failed) = load.stop()?;
            ensure!(failed.is_empty(), "of {done}: {failed:?}");
            Ok(format!("{done} connections"))
        });
        table.row("controllers and agents that start now find each other by the new root alone", || {
            for controller in cluster.controllers() {
                controller.restart()?;
            }
            cluster.agent("a").restart()?;
            eventually(NOTICE, || {
                let status = cluster.agent("a").status().map_err(|error| format!("{error:#}"))?;
                if status["controller"]["connected"] == true { Ok(()) } else { Err(status.to_string()) }
            })?;
            Ok(String::new())
        });
        Ok(())
    });
    table.finish();
}

#[test]
fn certificates_of_a_minute_are_renewed_under_load() {
    if !kube_tests::ready("certificates_of_a_minute_are_renewed_under_load") {
        return;
    }
    let mut table = Table::new("certificates of a minute");
    Cluster::builder().node("a").node("b").value("meshConfig.certificateLifetime=1m").run(|cluster| {
        let (web, client) = captured(cluster)?;
        let own = format!("spiffe://{}/ns/shop/sa/client", lab::TRUST_DOMAIN);
        let serial = || -> Result<String> {
            let certs = cluster.agent("a").certs()?;
            let cert =
                certs.iter().find(|cert| cert["identity"] == own.as_str()).context("its certificate")?;
            ensure!(cert["state"] == "valid" || cert["state"] == "expiring", "{cert}");
            Ok(cert["serial"].as_str().context("a serial")?.to_owned())
        };
        let load = Traffic::start(&web, 8080, &[(&client, web.v4().into(), 8080)])?;
        let mut seen = vec![serial()?];
        table.row("the third one is there before two have run out", || {
            while seen.len() < 4 {
                let next = eventually(NOTICE, || match serial() {
                    Ok(serial) if seen.last() != Some(&serial) => Ok(serial),
                    other => Err(format!("{other:?}")),
                })?;
                seen.push(next);
                load.await_more(5)?;
            }
            Ok(format!("{seen:?}"))
        });
        table.row("not one connection failed", || {
            let (done, failed) = load.stop()?;
            ensure!(failed.is_empty(), "of {done}: {failed:?}");
            Ok(format!("{done} connections"))
        });
        Ok(())
    });
    table.finish();
}
