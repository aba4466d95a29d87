//! Promise: the access log has one line of each connection on each path, with what really happened; and the MeshConfig
//! switches it while agents run.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use observe::access::AccessLog;
use observe::setting::{await_setting, configure, deny, setting};
use observe::stage::{BYTES, PORT, Stage, Way, talk, total};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
/// A port that nobody listens at.
const NOBODY: u16 = 9;
/// Every key of a line, in its order.
const KEYS: [&str; 17] = [
    "time",
    "event",
    "direction",
    "path",
    "security",
    "verdict",
    "reason",
    "detail",
    "source",
    "destination",
    "policy",
    "bytes_sent",
    "bytes_received",
    "duration_ms",
    "connect_ms",
    "rtt_us",
    "retransmits",
];

/// The log of both nodes.
struct Logs<'a, 'b> {
    stage: &'a Stage<'b>,
    a: AccessLog,
    b: AccessLog,
}

/// Which lines a connection on a way has: node, direction, path, security.
fn lines_of(way: &Way) -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    match way.name {
        "tunnel" => vec![("a", "outbound", "tunnel", "mtls"), ("b", "inbound", "tunnel", "mtls")],
        "direct" => vec![("a", "outbound", "direct", "kernel")],
        "left" => vec![("a", "outbound", "passthrough", "plaintext")],
        _ => vec![("a", "inbound", "plaintext", "plaintext")],
    }
}

impl<'a, 'b> Logs<'a, 'b> {
    fn of(stage: &'a Stage<'b>) -> Result<Self> {
        Ok(Self { stage, a: AccessLog::of(stage.lab, "a")?, b: AccessLog::of(stage.lab, "b")? })
    }

    fn mark(&mut self) -> Result<()> {
        self.a.mark()?;
        self.b.mark()
    }

    fn on(&self, node: &str) -> &AccessLog {
        if node == "a" { &self.a } else { &self.b }
    }

    /// Lines of what went between both ends of a way, by their addresses.
    fn between(&self, node: &str, way: &Way) -> Result<Vec<Value>> {
        let from = format!("{}:", way.from.v4());
        let to = format!("{}:", way.to.v4());
        let is = |end: &Value, address: &str| {
            end["address"].as_str().is_some_and(|text| text.starts_with(address))
        };
        let mut rows = self.on(node).rows()?;
        rows.retain(|row| is(&row["source"], &from) && is(&row["destination"], &to));
        Ok(rows)
    }

    /// Talks on a way, and waits until both agents have counted the ends: what has no line then will have none.
    fn talk(&self, way: &Way, connections: usize) -> Result<()> {
        let closed = || -> Result<Vec<u64>> {
            let of = |(node, direction, security): &(&str, &str, &str)| {
                let labels = [format!("direction=\"{direction}\""), format!("security=\"{security}\"")];
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                total(self.stage.lab.agent(node), "weft_connections_closed_total", &labels)
            };
            way.seen.iter().map(of).collect()
        };
        let before = closed()?;
        talk(&way.from, &way.to, connections)?;
        eventually(SOON, || {
            let now = closed().map_err(|error| format!("{error:#}"))?;
            let whole = now.iter().zip(&before).all(|(now, before)| *now == before + connections as u64);
            if whole { Ok(()) } else { Err(format!("{}: closed {before:?}, now {now:?}", way.name)) }
        })
    }

    /// Has a caller refused by policy, and waits until the refusal is counted.
    fn refuse(&self) -> Result<()> {
        let agent = self.stage.lab.agent("b");
        let failed = || total(agent, "weft_connections_failed_total", &["reason=\"policy_denied\""]);
        let before = failed()?;
        let refused = self.stage.far.connect(SocketAddr::new(self.stage.near.v4().into(), PORT), SOON)?;
        ensure!(refused.is_err(), "it was admitted");
        eventually(SOON, || match failed() {
            Ok(now) if now == before + 1 => Ok(()),
            other => Err(format!("{before}, then {other:?}")),
        })
    }

    /// Every way once, and a refusal.
    fn everything(&self) -> Result<()> {
        self.stage.ways().iter().try_for_each(|way| self.talk(way, 1))?;
        self.refuse()
    }

    /// Events that have a line, with how many of each way; the last word of each is how many.
    fn counted(&self) -> Result<Vec<(String, usize)>> {
        let mut found = Vec::new();
        for way in self.stage.ways() {
            for (node, direction, ..) in lines_of(&way) {
                let rows = self.between(node, &way)?;
                let count = rows
                    .iter()
                    .filter(|row| row["direction"] == direction && row["event"] == "closed")
                    .count();
                found.push((format!("{} {direction}", way.name), count));
            }
        }
        let refused = self.b.rows()?.iter().filter(|row| row["event"] == "refused").count();
        found.push(("refused".into(), refused));
        Ok(found)
    }
}

#[test]
fn every_connection_has_its_line() {
    const NAME: &str = "every_connection_has_its_line";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        deny(lab, "far")?;
        configure(lab, "accessLog: {mode: All, format: json}")?;
        await_setting(lab, "access_log.mode", &json!("All"))?;
        let mut logs = Logs::of(&stage)?;
        for way in stage.ways() {
            table.row(&format!("{}: one line a connection, with its bytes", way.name), || {
                logs.mark()?;
                closed(&logs, &way)
            });
        }
        refusals(&mut logs, &mut table);
        by_the_kernel(&mut logs, &mut table);
        switches(&mut logs, &mut table);
        table.finish();
        Ok(())
    });
}

fn closed(logs: &Logs<'_, '_>, way: &Way) -> Result<String> {
    const CONNECTIONS: usize = 5;
    logs.talk(way, CONNECTIONS)?;
    let mut durations = Vec::new();
    for (node, direction, path, security) in lines_of(way) {
        let rows = eventually(SOON, || {
            let rows = logs.between(node, way).map_err(|error| format!("{error:#}"))?;
            if rows.len() >= CONNECTIONS { Ok(rows) } else { Err(format!("{} lines on {node}", rows.len())) }
        })?;
        ensure!(rows.len() == CONNECTIONS, "{} lines on {node}: {rows:?}", rows.len());
        let ports: BTreeSet<&str> = rows.iter().filter_map(|row| row["source"]["address"].as_str()).collect();
        ensure!(ports.len() == CONNECTIONS, "one line each: {ports:?}");
        for row in &rows {
            let keys: BTreeSet<&str> =
                row.as_object().context("an object")?.keys().map(String::as_str).collect();
            ensure!(keys == KEYS.into(), "{row}");
            let wanted = [
                ("event", json!("closed")),
                ("direction", json!(direction)),
                ("path", json!(path)),
                ("security", json!(security)),
                ("verdict", json!("allowed")),
                ("reason", json!("clean")),
                ("policy", Value::Null),
                ("bytes_sent", json!(BYTES)),
                ("bytes_received", json!(BYTES)),
            ];
            for (key, value) in wanted {
                ensure!(row[key] == value, "{key} is {} and not {value}: {row}", row[key]);
            }
            let ends = [("source", &way.from), ("destination", &way.to)];
            for (end, pod) in ends {
                ensure!(row[end]["pod"] == pod.name() && row[end]["namespace"] == pod.namespace(), "{row}");
            }
            ensure!(row["destination"]["address"] == format!("{}:{PORT}", way.to.v4()).as_str(), "{row}");
            ensure!(row["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{row}");
            durations.push(row["duration_ms"].as_f64().unwrap_or_default());
        }
    }
    ensure!(durations.iter().all(|duration| *duration < SOON.as_millis() as f64), "{durations:?}");
    Ok(format!("{} lines", durations.len()))
}

fn refusals(logs: &mut Logs<'_, '_>, table: &mut Table) {
    table.row("a refusal has its code, its policy and its words", || {
        logs.mark()?;
        logs.refuse()?;
        let row = eventually(SOON, || {
            let rows = logs.b.rows().map_err(|error| format!("{error:#}"))?;
            rows.into_iter().find(|row| row["event"] == "refused").ok_or_else(|| "no line".to_owned())
        })?;
        ensure!(row["verdict"] == "denied" && row["reason"] == "policy_denied", "{row}");
        ensure!(row["policy"] == "shop/no-far" && row["source"]["pod"] == "far", "{row}");
        ensure!(row["detail"].as_str().is_some_and(|words| words.contains("shop/no-far")), "{row}");
        ensure!(row["bytes_sent"] == 0 && row["destination"]["pod"] == "near", "{row}");
        ensure!(logs.b.rows()?.len() == 1 && logs.a.rows()?.is_empty(), "one line, on the node that refused");
        Ok(row["detail"].to_string())
    });
    table.row("a port without a listener has a reason, on both nodes", || {
        logs.mark()?;
        let client = &logs.stage.client;
        let failed = client.connect(SocketAddr::new(logs.stage.far.v4().into(), NOBODY), SOON)?;
        // Through a tunnel connect has succeeded before the destination has been asked.
        drop(failed);
        let mut reasons = Vec::new();
        for (log, direction) in [(&logs.a, "outbound"), (&logs.b, "inbound")] {
            let row = eventually(SOON, || {
                let rows = log.rows().map_err(|error| format!("{error:#}"))?;
                rows.into_iter().next().ok_or_else(|| "no line".to_owned())
            })?;
            ensure!(row["direction"] == direction && row["verdict"] == "allowed", "{row}");
            ensure!(row["event"] == "refused" && row["detail"].is_string(), "{row}");
            reasons.push(row["reason"].as_str().unwrap_or_default().to_owned());
        }
        ensure!(reasons == ["peer_refused", "app_refused"], "{reasons:?}");
        Ok(reasons.join(", "))
    });
}

/// What no agent has seen, and has its line all the same.
fn by_the_kernel(logs: &mut Logs<'_, '_>, table: &mut Table) {
    let lab = logs.stage.lab;
    table.row("a pod that comes, and a Service, change nothing of it", || {
        lab.write_object(
            "service-empty.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: empty, namespace: shop}\n\
             spec: {clusterIP: 10.96.7.7, ports: [{port: 80}], selector: {app: nobody}}\n",
        )?;
        let late = lab.pod("shop/late").node("a").start()?;
        lab.await_captured(&late)?;
        for way in logs.stage.ways().iter().filter(|way| way.in_kernel) {
            logs.mark()?;
            closed(logs, way)?;
        }
        Ok(String::new())
    });
    table.row("a Service without endpoints: refused at connect, with its name", || {
        let empty = SocketAddr::from(([10, 96, 7, 7], 80));
        let row = eventually(SOON, || {
            let said = |error: anyhow::Error| format!("{error:#}");
            logs.mark().map_err(said)?;
            let refused = logs.stage.client.connect(empty, SOON).map_err(said)?.is_err();
            let row = refused.then(|| {
                eventually(Duration::from_secs(2), || {
                    let rows = logs.a.rows().map_err(|error| format!("{error:#}"))?;
                    rows.into_iter().next().ok_or_else(|| "no line".to_owned())
                })
            });
            row.ok_or("the Service is not known yet")?.map_err(said)
        })?;
        ensure!(row["event"] == "refused" && row["reason"] == "no_endpoint", "{row}");
        ensure!(row["source"]["pod"] == "client" && row["destination"]["service"] == "empty", "{row}");
        Ok(row["detail"].to_string())
    });
    table.row("a direct connection that a policy in mode Audit would have refused", || {
        let policy = |mode: &str| {
            format!(
                "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\n\
                 metadata: {{name: no-client, namespace: shop, generation: 1}}\nspec: {{targetRefs: [{{kind: Namespace}}], \
                 action: DENY{mode}, rules: [{{sources: [{{serviceAccount: {{name: client}}}}]}}]}}\n"
            )
        };
        lab.write_object("policy-no-client.yaml", &policy(", mode: Audit"))?;
        let ways = logs.stage.ways();
        let way = ways.iter().find(|way| way.name == "direct").context("no direct way")?;
        eventually(SOON, || {
            let said = |error: anyhow::Error| format!("{error:#}");
            logs.mark().map_err(said)?;
            logs.talk(way, 1).map_err(said)?;
            let rows = eventually(Duration::from_secs(2), || {
                let rows = logs.between("a", way).map_err(|error| format!("{error:#}"))?;
                if rows.is_empty() { Err("no line".to_owned()) } else { Ok(rows) }
            });
            match rows.map_err(said)?.as_slice() {
                [row] if row["verdict"] == "audited" && row["event"] == "closed" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        lab.remove_object("policy-no-client.yaml")?;
        eventually(SOON, || {
            let said = |error: anyhow::Error| format!("{error:#}");
            logs.mark().map_err(said)?;
            logs.talk(way, 1).map_err(said)?;
            std::thread::sleep(Duration::from_millis(300));
            match logs.between("a", way).map_err(said)?.as_slice() {
                [row] if row["verdict"] == "allowed" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(String::new())
    });
}

/// What of everything there is has lines, by a MeshConfig.
fn switches(logs: &mut Logs<'_, '_>, table: &mut Table) {
    let lab = logs.stage.lab;
    let all = ["tunnel outbound", "tunnel inbound", "direct outbound", "left outbound", "plaintext inbound"];
    let only = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (name, spec, setting_of, closed, refused) in [
        ("Off: nothing", "mode: Off", ("access_log.mode", json!("Off")), vec![], 0),
        ("Refused: refusals alone", "mode: Refused", ("access_log.mode", json!("Refused")), vec![], 1),
        ("All: everything", "mode: All", ("access_log.mode", json!("All")), only(&all), 1),
        ("sample 0: refusals alone", "mode: All, sample: 0.0", ("access_log.sample", json!(0.0)), vec![], 1),
        ("sample 1: everything", "mode: All, sample: 1.0", ("access_log.sample", json!(1.0)), only(&all), 1),
        (
            "minDuration: what lasted, and refusals",
            "mode: All, minDuration: 1h",
            ("access_log.min_duration_ms", json!(3_600_000)),
            vec![],
            1,
        ),
        (
            "namespaces: nothing of others",
            "mode: All, namespaces: [bank]",
            ("access_log.namespaces", json!(["bank"])),
            vec![],
            0,
        ),
        (
            "namespaces: what has an end there",
            "mode: All, namespaces: [shop]",
            ("access_log.namespaces", json!(["shop"])),
            only(&all),
            1,
        ),
        ("and back", "mode: All", ("access_log.namespaces", Value::Null), only(&all), 1),
    ] {
        table.row(&format!("switched while agents run to {name}"), || {
            configure(lab, &format!("accessLog: {{format: json, {spec}}}"))?;
            let (key, value) = setting_of;
            if !value.is_null() {
                await_setting(lab, key, &value)?;
            } else {
                eventually(SOON, || match setting(lab.agent("b"), key) {
                    Ok(now) if now.as_array().is_none_or(Vec::is_empty) => Ok(()),
                    other => Err(format!("{other:?}")),
                })?;
            }
            logs.mark()?;
            logs.everything()?;
            let wanted: Vec<(String, usize)> = all
                .iter()
                .map(|name| ((*name).to_owned(), usize::from(closed.iter().any(|one| one == name))))
                .chain([("refused".to_owned(), refused)])
                .collect();
            eventually(SOON, || {
                let found = logs.counted().map_err(|error| format!("{error:#}"))?;
                if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
            })?;
            // What would have come has come: it is written every 100 ms.
            std::thread::sleep(Duration::from_millis(500));
            let found = logs.counted()?;
            ensure!(found == wanted, "{found:?}");
            Ok(String::new())
        });
    }
    table.row("a value that makes no sense changes nothing", || {
        configure(lab, "accessLog: {format: json, mode: Off, sample: 7.0}")?;
        eventually(SOON, || {
            let text = lab.controller().metrics().map_err(|error| format!("{error:#}"))?;
            let errors = text.lines().find(|line| line.starts_with("weft_controller_config_errors"));
            match errors {
                Some(line) if line.ends_with(" 1") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        logs.mark()?;
        logs.everything()?;
        eventually(SOON, || {
            let found = logs.counted().map_err(|error| format!("{error:#}"))?;
            if found.iter().all(|(_, count)| *count == 1) { Ok(()) } else { Err(format!("{found:?}")) }
        })?;
        Ok(String::new())
    });
    table.row("text has the same words", || {
        configure(lab, "accessLog: {format: text, mode: All}")?;
        await_setting(lab, "access_log.format", &json!("text"))?;
        logs.mark()?;
        logs.everything()?;
        let wanted = [
            (
                &logs.a,
                vec!["event=closed", "path=direct", "security=kernel", "bytes_sent=20000", "reason=clean"],
            ),
            (&logs.b, vec!["event=closed", "path=tunnel", "direction=inbound", "source.pod=client"]),
            (&logs.b, vec!["event=refused", "policy=shop/no-far", "reason=policy_denied", "detail=\"rule 0"]),
        ];
        for (log, words) in wanted {
            eventually(SOON, || {
                let text = log.text().map_err(|error| format!("{error:#}"))?;
                let mut lines = text.lines().filter(|line| line.starts_with("time="));
                let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
                if found { Ok(()) } else { Err(format!("no line with {words:?} in {text}")) }
            })?;
        }
        Ok(String::new())
    });
}
