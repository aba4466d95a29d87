//! Promise: between pods of one node connections go directly and are judged all the same; who is refused is refused before the
//! server sees anything; what a change no longer admits is ended within a second, on every path, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use policy::cast::{Cast, at};
use policy::enforce::{Policy, configure, put, remove};
use policy::open::{Open, Quiet};
use policy::talk::{Outcome, talk};

const PORT: u16 = 8080;
/// Every node must have heard within this.
const PATIENCE: Duration = Duration::from_secs(15);
const CAPTURE: &str = "weft.dev/capture";
const CLIENT_ONLY: Policy<'_> = Policy {
    key: "shop/client-only",
    spec: "targetRefs: [{kind: Namespace}], action: ALLOW, rules: [{sources: [{serviceAccount: {name: client}}]}]",
};
const NOBODY: Policy<'_> = Policy {
    key: "shop/nobody",
    spec: "targetRefs: [{kind: Namespace}], action: DENY, rules: [{sources: [{serviceAccount: {name: client}}]}]",
};
/// A policy that has been acknowledged ends what it refuses within so long.
const SOON: Duration = Duration::from_secs(1);

fn path(lab: &Lab, open: &Open) -> Result<(String, String)> {
    let row = open.row(lab.agent("a"))?.context("it has no row")?;
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok((text("path"), text("security")))
}

#[test]
fn connections_between_pods_of_a_node_go_directly_and_are_judged() {
    const TEST: &str = "connections_between_pods_of_a_node_go_directly_and_are_judged";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        for ipv6 in [false, true] {
            let family = if ipv6 { "IPv6" } else { "IPv4" };
            table.row(&format!("{family}: direct on the node, a tunnel to the other"), || {
                for (server, wanted) in
                    [(&cast.near, ("direct", "kernel")), (&cast.server, ("tunnel", "mtls"))]
                {
                    let open = Open::new(&cast.client, at(server, ipv6, PORT))?;
                    let found = path(lab, &open)?;
                    ensure!((found.0.as_str(), found.1.as_str()) == wanted, "{found:?}");
                }
                Ok(String::new())
            });
            table.row(&format!("{family}: refused at once, and no accept, whatever the path"), || {
                put(lab, CLIENT_ONLY)?;
                for (number, server) in [&cast.near, &cast.server].into_iter().enumerate() {
                    let port = 7100 + 10 * u16::from(ipv6) + number as u16;
                    let quiet = Quiet::open(server, port)?;
                    for (who, pod) in [("cart", &cast.cart), ("till", &cast.till)] {
                        let outcome = talk(pod, at(server, ipv6, port))?;
                        ensure!(outcome == Outcome::Refused, "{who}: {outcome}");
                    }
                    // Without identity it is the destination that says no.
                    let outcome = talk(&cast.stranger, at(server, ipv6, port))?;
                    ensure!(!outcome.is_admitted(), "a stranger: {outcome}");
                    ensure!(quiet.accepted()? == 0, "the server has seen an accept");
                }
                Ok(String::new())
            });
            table.row(&format!("{family}: Audit admits, and says what it would do"), || {
                remove(lab, CLIENT_ONLY.key)?;
                let spec = CLIENT_ONLY.spec.replace("action: ALLOW", "action: ALLOW, mode: Audit");
                put(lab, Policy { key: CLIENT_ONLY.key, spec: &spec })?;
                for (server, agent) in [(&cast.near, "a"), (&cast.server, "b")] {
                    let outcome = talk(&cast.cart, at(server, ipv6, PORT))?;
                    ensure!(outcome.is_admitted(), "{outcome}");
                    let log = lab.place().logs().join(format!("agent-{agent}.log"));
                    eventually(Duration::from_secs(5), || {
                        let text = std::fs::read_to_string(&log).unwrap_or_default();
                        let told = text.lines().any(|line| {
                            line.contains("policy audit")
                                && line.contains("shop/client-only")
                                && line.contains("cart")
                        });
                        if told { Ok(()) } else { Err(format!("{}: nothing of it", log.display())) }
                    })?;
                }
                remove(lab, CLIENT_ONLY.key).map(|()| String::new())
            });
        }
        table.row("sameNode: tunnel, and back", || {
            configure(lab, "sameNode: tunnel")?;
            let to = at(&cast.near, false, PORT);
            let becomes = |wanted: &str| {
                eventually(Duration::from_secs(5), || {
                    let look = || path(lab, &Open::new(&cast.client, to)?);
                    match look() {
                        Ok((found, _)) if found == wanted => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                })
            };
            becomes("tunnel")?;
            configure(lab, "sameNode: direct")?;
            becomes("direct").map(|()| String::new())
        });
        table.row("meshctl explain: in words, as JSON, and by its exit code", || explained(lab, &cast));
        table.row("a file is edited, and meshctl policy wait is about what was written", || {
            edited(lab, &cast)
        });
        table.row("a Service's connections are spread over near and far alike", || spread(lab, &cast));
        table.row("what is refused by a Service's address is counted and said, with its policy", || {
            refused_by_service(lab, &cast)
        });
        table.finish();
        Ok(())
    });
}

/// Again and again, with nothing but the file to tell one state from the next.
fn edited(lab: &Lab, cast: &Cast) -> Result<String> {
    const ROUNDS: usize = 20;
    const FILE: &str = "policy-shop-edited.yaml";
    for round in 0..ROUNDS {
        let denied = round % 2 == 0;
        let account = if denied { "client" } else { "another" };
        lab.write_object(
            FILE,
            &format!(
                "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: edited, namespace: shop}}\n\
                 spec: {{targetRefs: [{{kind: Namespace}}], action: DENY, rules: [{{sources: [{{serviceAccount: {{name: {account}}}}}]}}]}}\n"
            ),
        )?;
        let mut command = Command::new(lab::binary("meshctl")?);
        command.arg("--socket").arg(lab.controller().admin_socket()).args(["policy", "wait", "shop/edited"]);
        let output = command.output().context("meshctl")?;
        ensure!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        for to in [at(&cast.near, false, PORT), at(&cast.server, false, PORT)] {
            let outcome = talk(&cast.client, to)?;
            ensure!(outcome.is_admitted() != denied, "round {round}, {account} is denied: {to} is {outcome}");
        }
    }
    lab.remove_object(FILE)?;
    for agent in lab.agents() {
        eventually(PATIENCE, || {
            let rows = agent.admin("/v1/policies").map_err(|error| format!("{error:#}"))?;
            let has = rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == "edited"));
            if has { Err(rows.to_string()) } else { Ok(()) }
        })?;
    }
    Ok(format!("{ROUNDS} edits"))
}

fn explained(lab: &Lab, cast: &Cast) -> Result<String> {
    put(lab, CLIENT_ONLY)?;
    let ask = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new(lab::binary("meshctl")?);
        command.arg("--socket").arg(lab.agent("a").admin_socket()).arg("explain").args(arguments);
        let output = command.output().context("meshctl")?;
        let text = [&output.stdout[..], &output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    };
    let near = format!("shop/near:{PORT}");
    let (code, text) = ask(&["shop/client", &near])?;
    ensure!(code == Some(0) && text.contains("direct") && text.contains("as the model says"), "{text}");
    let (code, text) = ask(&["shop/cart", &near, "-o", "json"])?;
    let said: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(code == Some(1) && said["verdict"] == "deny" && said["reason"] == "policy_not_allowed", "{text}");
    ensure!(said["kernel"]["verdict"] == "deny" && said["kernel"]["agrees"] == true, "{text}");
    ensure!(
        said["policy"] == serde_json::json!({"namespace": "shop", "name": "client-only", "rule": null}),
        "{text}"
    );
    let steps: Vec<&str> =
        said["steps"].as_array().into_iter().flatten().filter_map(|step| step["step"].as_str()).collect();
    ensure!(steps.starts_with(&["source", "capture", "identity"]) && steps.contains(&"policy"), "{text}");
    let (code, text) = ask(&[&cast.client.v4().to_string(), &format!("{}:{PORT}", cast.server.v4())])?;
    ensure!(code == Some(0) && text.contains("tunnel"), "{text}");
    let (code, text) = ask(&["shop/nobody", &near])?;
    ensure!(code == Some(1) && text.contains("shop/nobody") && text.lines().count() == 1, "{text}");
    let (code, text) = ask(&["shop/client", "shop/near"])?;
    ensure!(code == Some(2) && text.contains("port"), "{text}");
    remove(lab, CLIENT_ONLY.key).map(|()| steps.join(", "))
}

/// 60 connections to two endpoints, one of this node.
fn spread(lab: &Lab, cast: &Cast) -> Result<String> {
    for pod in [&cast.near, &cast.server] {
        lab.await_peers_tunnel(pod)?;
    }
    let service = lab.service("shop/both").port(80, PORT).select("tier", "back").create()?;
    for pod in [&cast.near, &cast.server] {
        pod.set_label("tier", Some("back"))?;
    }
    let to = SocketAddr::new(service.v4().into(), 80);
    eventually(Duration::from_secs(10), || {
        let mut paths = BTreeMap::new();
        for _ in 0..60 {
            let look = || path(lab, &Open::new(&cast.client, to)?);
            let (path, _) = look().map_err(|error| format!("{error:#}"))?;
            *paths.entry(path).or_insert(0) += 1;
        }
        let wanted = BTreeMap::from([("direct".to_owned(), 30), ("tunnel".to_owned(), 30)]);
        if paths == wanted { Ok(format!("{paths:?}")) } else { Err(format!("{paths:?}")) }
    })
}

fn refused_by_service(lab: &Lab, cast: &Cast) -> Result<String> {
    let service = lab.service("shop/guarded").port(80, PORT).select("tier", "back").create()?;
    let to = SocketAddr::new(service.v4().into(), 80);
    put(lab, CLIENT_ONLY)?;
    let log = lab.place().logs().join("agent-a.log");
    let lines = || -> Result<usize> {
        let text = std::fs::read_to_string(&log)?;
        let told = |line: &&str| line.contains("connection refused") && line.contains("policy_not_allowed");
        Ok(text.lines().filter(told).filter(|line| line.contains("shop/client-only")).count())
    };
    let before = lines()?;
    let said = eventually(Duration::from_secs(10), || {
        let outcome = talk(&cast.cart, to).map_err(|error| format!("{error:#}"))?;
        let metrics = lab.agent("a").metrics().map_err(|error| format!("{error:#}"))?;
        let counted = metrics.lines().find(|line| {
            line.starts_with("weft_connections_failed_total{")
                && line.contains("reason=\"policy_not_allowed\"")
                && line.contains("destination_service=\"guarded\"")
        });
        let more = lines().map_err(|error| format!("{error:#}"))? - before;
        match (outcome == Outcome::Refused, counted, more) {
            (true, Some(line), 1..) => Ok(line.rsplit(' ').next().unwrap_or_default().to_owned()),
            other => Err(format!("{other:?}")),
        }
    })?;
    remove(lab, CLIENT_ONLY.key).map(|()| format!("{said} counted"))
}

#[test]
fn what_is_no_longer_admitted_is_ended_and_nothing_else() {
    const TEST: &str = "what_is_no_longer_admitted_is_ended_and_nothing_else";
    if !lab::ready(TEST) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let cast = Cast::start(lab)?;
        let mut table = Table::new(TEST);
        for (name, server) in cast.destinations() {
            for ipv6 in [false, true] {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                table.row(&format!("a policy, {name}, {family}"), || {
                    let to = at(server, ipv6, PORT);
                    let mut refused = Open::new(&cast.client, to)?;
                    let mut spared = Open::new(&cast.cart, to)?;
                    put(lab, NOBODY)?;
                    let after = refused.await_reset()?;
                    ensure!(after < SOON, "after {after:?}");
                    spared.speak()?;
                    remove(lab, NOBODY.key)?;
                    Open::new(&cast.client, to)?;
                    Ok(format!("{after:.0?} after the acknowledgement"))
                });
            }
        }
        for (name, server) in cast.destinations() {
            table.row(&format!("strict, {name}"), || {
                let to = at(server, false, PORT);
                let mut plain = Open::new(&cast.stranger, to)?;
                let mut known = Open::new(&cast.client, to)?;
                configure(lab, "mtls: Strict")?;
                let after = plain.await_reset()?;
                ensure!(after < SOON, "after {after:?}");
                known.speak()?;
                configure(lab, "mtls: Permissive").map(|()| format!("{after:.0?} after the acknowledgement"))
            });
        }
        table.row("a pod that loses its label is nobody from then on: directly and by tunnel", || {
            unlabelled(lab, &cast)
        });
        table.row("200 connections a second, and a policy in between", || races(lab, &cast));
        table.finish();
        Ok(())
    });
}

fn unlabelled(lab: &Lab, cast: &Cast) -> Result<String> {
    put(lab, CLIENT_ONLY)?;
    let tos = cast.destinations().map(|(_, server)| at(server, false, PORT));
    let mut open = tos.iter().map(|to| Open::new(&cast.client, *to)).collect::<Result<Vec<_>>>()?;
    cast.client.set_label(CAPTURE, Some("disabled"))?;
    for (one, to) in open.iter_mut().zip(tos) {
        one.await_reset().with_context(|| format!("to {to}"))?;
    }
    for to in tos {
        eventually(Duration::from_secs(5), || match talk(&cast.client, to) {
            Ok(outcome) if !outcome.is_admitted() => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    cast.client.set_label(CAPTURE, None)?;
    lab.await_captured(&cast.client)?;
    for to in tos {
        eventually(Duration::from_secs(10), || match talk(&cast.client, to) {
            Ok(Outcome::Admitted) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
    }
    remove(lab, CLIENT_ONLY.key).map(|()| String::new())
}

/// Clients dial all the while; whoever began after the acknowledgement is refused.
fn races(lab: &Lab, cast: &Cast) -> Result<String> {
    const EVERY: Duration = Duration::from_millis(5);
    let mut told = Vec::new();
    for round in 0..3 {
        for (_, server) in cast.destinations() {
            let to = at(server, round % 2 == 1, PORT);
            let (sender, acknowledged) = std::sync::mpsc::channel();
            let (late, tries) = std::thread::scope(|scope| -> Result<(usize, usize)> {
                let client = &cast.client;
                let dials = scope.spawn(move || -> Result<(usize, usize)> {
                    let (mut since, mut late, mut tries) = (None::<Instant>, 0, 0);
                    loop {
                        let begun = Instant::now();
                        let outcome = talk(client, to)?;
                        tries += 1;
                        late += usize::from(since.is_some() && outcome.is_admitted());
                        since = since.or_else(|| acknowledged.try_recv().ok());
                        if since.is_some_and(|at| at.elapsed() > Duration::from_secs(1)) {
                            return Ok((late, tries));
                        }
                        std::thread::sleep(EVERY.saturating_sub(begun.elapsed()));
                    }
                });
                std::thread::sleep(Duration::from_millis(300));
                put(lab, NOBODY)?;
                let _ended_early = sender.send(Instant::now());
                dials.join().map_err(|_| anyhow::anyhow!("the client panicked"))?
            })?;
            ensure!(late == 0, "{late} of {tries} were admitted after the acknowledgement");
            told.push(tries);
            remove(lab, NOBODY.key)?;
        }
    }
    Ok(format!("{told:?} connections, none admitted late"))
}
