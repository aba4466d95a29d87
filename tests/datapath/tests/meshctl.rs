//! Promise: what `meshctl` prints can be scripted against: shapes, words and exit codes, from agents at work.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, TRUST_DOMAIN, programs};
use serde_json::Value;

const PORT: u16 = 7000;
const PODS: &str = "identity name namespace node reason state uid";
const CONNECTIONS: &str = "bytes_received bytes_sent direction dst id path security src";
const SOURCE: &str = "addr identity name namespace";
const DESTINATION: &str = "addr identity name namespace service";
const CERTS: &str = "identity issuer last_error next not_after not_before serial state";
const CHECK: &str = "message name remedy status";

/// `meshctl --socket SOCKET …`
fn meshctl(socket: &Path, arguments: &[&str]) -> Result<Output> {
    let program = lab::binary("meshctl")?;
    let mut command = Command::new(program);
    command.env_clear().arg("--socket").arg(socket).args(arguments);
    command.output().context("run meshctl")
}

/// Its standard output, if it ended with this code.
fn said(socket: &Path, arguments: &[&str], code: i32) -> Result<String> {
    let output = meshctl(socket, arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{arguments:?}: {} instead of {code}: {errors}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn json(socket: &Path, verb: &str) -> Result<Value> {
    let text = said(socket, &[verb, "-o", "json"], 0)?;
    serde_json::from_str(&text).with_context(|| format!("{verb} printed {text:?}"))
}

fn rows(socket: &Path, verb: &str) -> Result<Vec<Value>> {
    let answer = json(socket, verb)?;
    answer.as_array().cloned().with_context(|| format!("{verb} is no list: {answer}"))
}

/// Fails unless the object has exactly these keys.
fn ensure_keys(object: &Value, keys: &str) -> Result<()> {
    let has: BTreeSet<&str> = object
        .as_object()
        .with_context(|| format!("no object: {object}"))?
        .keys()
        .map(String::as_str)
        .collect();
    let wanted: BTreeSet<&str> = keys.split(' ').collect();
    ensure!(has == wanted, "{has:?} instead of {wanted:?}");
    Ok(())
}

fn ensure_word(object: &Value, key: &str, words: &[&str]) -> Result<()> {
    let word = object[key].as_str().unwrap_or_default();
    ensure!(words.contains(&word), "{key} is {}, not one of {words:?}", object[key]);
    Ok(())
}

fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
}

#[test]
fn meshctl_can_be_scripted() {
    if !lab::ready("meshctl_can_be_scripted") {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new("meshctl_can_be_scripted");
        lab.namespace("shop").captured()?;
        let client = lab.pod("shop/client").node("a").service_account("client").start()?;
        let web = lab.pod("shop/web").node("b").service_account("web").label("app", "web").start()?;
        let outside = lab.pod("plain/one").node("a").start()?;
        let echo = programs::peer(&web, "echo", PORT, &[])?;
        let _plain = programs::peer(&client, "echo", PORT, &[])?;
        lab.await_captured(&client)?;
        lab.await_peers_tunnel(&web)?;
        let service = datapath::cast::service(lab, &web, "web", &[(80, PORT)])?;
        lab.await_excluded(&outside)?;
        let held = Held::open(&client, SocketAddr::new(service.v4().into(), 80))?;
        let _through = Held::open(&outside, SocketAddr::new(client.v4().into(), PORT))?;
        let [a, b] = ["a", "b"].map(|node| lab.agent(node).admin_socket());

        table.row("check", || {
            let report = json(a, "check")?;
            ensure_keys(&report, "checks ok")?;
            let checks = report["checks"].as_array().context("checks")?;
            for check in checks {
                ensure_keys(check, CHECK)?;
                ensure_word(check, "status", &["pass", "warn"])?;
            }
            ensure!(report["ok"] == true, "{report}");
            Ok(format!("{} checks", checks.len()))
        });
        table.row("pods", || {
            let pods = rows(a, "pods")?;
            for pod in &pods {
                ensure_keys(pod, PODS)?;
                ensure_word(pod, "state", &["captured", "pending", "excluded", "unknown"])?;
                ensure!(pod["node"] == "a", "{pod}");
            }
            let find = |uid: &str| pods.iter().find(|pod| pod["uid"] == uid).context("a pod of the node");
            let (mine, other) = (find(client.uid())?, find(outside.uid())?);
            ensure!(mine["state"] == "captured" && mine["reason"].is_null(), "{mine}");
            ensure!(mine["identity"] == spiffe("shop", "client").as_str(), "{mine}");
            ensure!(mine["namespace"] == "shop" && mine["name"] == "client", "{mine}");
            ensure!(other["state"] == "excluded" && other["namespace"] == "plain", "{other}");
            ensure!(find(web.uid()).is_err(), "a pod of the other node is in it");
            Ok(format!("{} pods", pods.len()))
        });
        table.row("connections", || {
            let address = held.client.to_string();
            for (socket, direction) in [(a, "outbound"), (b, "inbound")] {
                let all = rows(socket, "connections")?;
                for row in &all {
                    ensure_keys(row, CONNECTIONS)?;
                    ensure_keys(&row["src"], SOURCE)?;
                    ensure_keys(&row["dst"], DESTINATION)?;
                    ensure_word(row, "path", &["tunnel", "direct", "plaintext", "passthrough"])?;
                    ensure_word(row, "security", &["mtls", "plaintext", "kernel"])?;
                }
                let row = all.iter().find(|row| row["src"]["addr"] == address.as_str()).context("its row")?;
                ensure!(row["direction"] == direction, "{row}");
                ensure!(row["path"] == "tunnel" && row["security"] == "mtls", "{row}");
                ensure!(row["src"]["identity"] == spiffe("shop", "client").as_str(), "{row}");
                ensure!(row["src"]["name"] == "client" && row["src"]["namespace"] == "shop", "{row}");
                ensure!(row["dst"]["identity"] == spiffe("shop", "web").as_str(), "{row}");
                ensure!(row["dst"]["name"] == "web" && row["dst"]["namespace"] == "shop", "{row}");
                ensure!(row["dst"]["addr"] == format!("{}:{PORT}", web.v4()).as_str(), "{row}");
                let dialled = if direction == "outbound" { Value::from("web") } else { Value::Null };
                ensure!(row["dst"]["service"] == dialled, "{row}");
                // One line of seven bytes each way.
                ensure!(row["bytes_sent"] == 7 && row["bytes_received"] == 7, "{row}");
                ensure!(row["id"].as_u64().is_some_and(|id| id < 1 << 53), "{row}");
            }
            let plain = rows(a, "connections")?;
            let through =
                plain.iter().find(|row| row["dst"]["name"] == "client").context("the one from outside")?;
            ensure!(through["security"] == "plaintext" && through["src"]["identity"].is_null(), "{through}");
            ensure!(through["path"] == "plaintext" && through["direction"] == "inbound", "{through}");
            Ok(format!("{} rows on a, seen alike by both agents", plain.len()))
        });
        table.row("certs", || {
            let certs = rows(a, "certs")?;
            for cert in &certs {
                ensure_keys(cert, CERTS)?;
            }
            let own = spiffe("shop", "client");
            let cert =
                certs.iter().find(|cert| cert["identity"] == own.as_str()).context("its certificate")?;
            ensure!(cert["state"] == "valid" && cert["last_error"].is_null(), "{cert}");
            for key in ["serial", "issuer", "not_before", "not_after"] {
                ensure!(cert[key].as_str().is_some_and(|text| !text.is_empty()), "{cert}");
            }
            for key in ["not_before", "not_after"] {
                ensure!(cert[key].as_str().is_some_and(|time| time.ends_with('Z')), "{cert}");
            }
            ensure!(
                !certs.iter().any(|cert| cert["identity"] == spiffe("shop", "web").as_str()),
                "{certs:?}"
            );
            Ok(format!("{} certificates, of this node's pods alone", certs.len()))
        });
        table.row("status, of agents and of the controller", || {
            let status = json(a, "status")?;
            ensure!(status["node"] == "a" && status["world"]["complete"] == true, "{status}");
            ensure!(status["controller"]["connected"] == true, "{status}");
            ensure!(status["trust_domain"] == TRUST_DOMAIN, "{status}");
            let hooks = status["kernel"]["hooks"].as_array().context("hooks")?;
            ensure!(hooks.iter().all(|hook| hook["attached"] == true), "{hooks:?}");
            let controller = json(lab.controller().admin_socket(), "status")?;
            let agents = controller["agents"].as_array().context("agents")?;
            ensure!(agents.iter().filter(|agent| agent["connected"] == true).count() == 2, "{agents:?}");
            Ok(format!("{} hooks attached, {} agents connected", hooks.len(), agents.len()))
        });
        table.row("tables", || {
            let words = [
                ("check", "STATUS"),
                ("status", "connected"),
                ("pods", "client"),
                ("connections", "mtls"),
                ("certs", "/sa/client"),
            ];
            for (verb, word) in words {
                let plain = said(a, &[verb], 0)?;
                ensure!(plain.contains(word), "no {word:?} in {plain}");
                let table = said(a, &[verb, "--output", "table"], 0)?;
                // Ages go on meanwhile, by one step at most.
                let same = table == plain || table == said(a, &[verb], 0)? || verb == "status";
                ensure!(same, "{verb} -o table: {table}");
                ensure!(!plain.contains('\u{1b}'), "colours in a pipe: {plain:?}");
            }
            Ok("check, status, pods, connections, certs".to_owned())
        });
        table.row("exit code 1: a check that fails", || {
            let nobody = lab.place().dir().join("nobody.sock");
            let line = ["check", "-o", "json", "--", "--cgroup", "/tmp", "--bpffs", "/tmp"];
            let report: Value = serde_json::from_str(&said(&nobody, &line, 1)?)?;
            ensure!(report["ok"] == false, "{report}");
            let checks = report["checks"].as_array().context("checks")?;
            let failed: Vec<_> = checks.iter().filter(|check| check["status"] == "fail").collect();
            ensure!(failed.len() == 2 && failed.iter().all(|it| it["remedy"].is_string()), "{failed:?}");
            Ok(format!("{} and {}", failed[0]["name"], failed[1]["name"]))
        });
        table.row("exit code 2: usage", || {
            let lines: [&[&str]; 5] = [
                &[],
                &["frobnicate"],
                &["pods", "-o", "xml"],
                &["pods", "x"],
                &["connections", "--sort", "mood"],
            ];
            for line in lines {
                said(a, line, 2)?;
            }
            Ok(format!("{} lines", lines.len()))
        });
        table.row("exit code 3: nobody there, and after an agent's death", || {
            let nobody = lab.place().dir().join("nobody.sock");
            lab.agent("b").kill();
            for verb in ["status", "pods", "connections", "certs"] {
                for socket in [nobody.as_path(), b] {
                    let output = meshctl(socket, &[verb, "-o", "json"])?;
                    let errors = String::from_utf8_lossy(&output.stderr);
                    ensure!(output.status.code() == Some(3), "{verb}: {} {errors}", output.status);
                    ensure!(errors.contains(&socket.display().to_string()), "{errors}");
                    ensure!(output.stdout.is_empty(), "{output:?}");
                }
            }
            Ok("four verbs".to_owned())
        });
        drop(echo);
        table.finish();
        Ok(())
    });
}
