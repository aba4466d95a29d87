//! Promise: every verb of `meshctl` says of a mesh at work what is so, in every format, and ends with the code that the
//! manual has for it; a refusal is followed from the client's ECONNREFUSED to the rule in one command.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::row::Table;
use lab::{Lab, eventually};
use observe::cli::Meshctl;
use observe::program;
use observe::setting::{await_setting, configure, deny, setting};
use observe::stage::{BYTES, PORT, Stage, open, talk};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);
/// Verbs that list, and a word of their table's first line.
const LISTS: [(&str, &str); 8] = [
    ("pods", "STATE"),
    ("services", "ENDPOINTS"),
    ("endpoints", "CHOSEN"),
    ("workloads", "TUNNEL"),
    ("connections", "SECURITY"),
    ("policy list", "ACTION"),
    ("bpf maps", "FILL"),
    ("bpf progs", "ATTACHED-TO"),
];
/// What the support bundle of an agent has.
const PARTS: [&str; 15] = [
    "status.json",
    "pods.json",
    "connections.json",
    "certs.json",
    "roots.json",
    "workloads.json",
    "services.json",
    "policies.json",
    "config.json",
    "check.json",
    "bpf.json",
    "refusals.json",
    "log-level.json",
    "metrics.txt",
    "meshctl.json",
];

fn words(text: &str, wanted: &[&str]) -> Result<()> {
    for word in wanted {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    Ok(())
}

#[test]
fn every_verb_says_what_is_so() {
    const NAME: &str = "every_verb_says_what_is_so";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        stage.far.set_label("app", Some("far"))?;
        let _web = lab.service("shop/web").port(80, PORT).select("app", "far").create()?;
        configure(lab, "accessLog: {mode: All, format: json}")?;
        await_setting(lab, "access_log.mode", &json!("All"))?;
        deny(lab, "far")?;
        let [a, b] = ["a", "b"].map(|node| Meshctl::of(lab.agent(node).admin_socket()));
        let (a, b) = (a?, b?);
        eventually(SOON, || match a.rows("services") {
            Ok(rows) if rows.len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        lists(&stage, &a, &mut table)?;
        details(&stage, &a, &b, &mut table);
        kernel(&stage, &a, &mut table);
        files(&stage, &a, &mut table);
        refusal(&stage, &b, &mut table);
        bad_input(&stage, &a, &mut table);
        terminals(&a, &mut table);
        table.finish();
        Ok(())
    });
}

/// Lists, in every format, with a connection of each kind open.
fn lists(stage: &Stage<'_>, a: &Meshctl, table: &mut Table) -> Result<()> {
    let held = stage.ways().into_iter().map(|way| open(&way.from, SocketAddr::new(way.to.v4().into(), PORT)));
    let _held = held.collect::<Result<Vec<_>>>()?;
    for (verb, head) in LISTS {
        table.row(&format!("{verb}: table, wide, json, yaml, name"), || {
            let rows = a.rows(verb)?;
            let (plain, wide) = (a.text(verb)?, a.text(&format!("{verb} -o wide"))?);
            let bare = a.text(&format!("{verb} --no-headers"))?;
            let names = a.text(&format!("{verb} -o name"))?;
            let yaml: Value = serde_saphyr::from_str(&a.text(&format!("{verb} -o yaml"))?)?;
            let [plain_head, wide_head] = [&plain, &wide].map(|text| text.lines().next().unwrap_or_default());
            ensure!(plain_head.contains(head) && wide_head.len() >= plain_head.len(), "{plain_head}");
            ensure!(!rows.is_empty() && !plain.contains('\u{1b}'), "{plain:?}");
            let counts =
                [rows.len(), plain.lines().count() - 1, bare.lines().count(), wide.lines().count() - 1];
            ensure!(counts.iter().all(|count| *count == rows.len()), "{counts:?}: {plain}{bare}{wide}");
            ensure!(yaml.as_array().map(Vec::len) == Some(rows.len()), "{yaml}");
            let unique = names.lines().collect::<std::collections::BTreeSet<_>>().len();
            ensure!(unique <= rows.len() && unique > 0, "{names}");
            ensure!(names.lines().all(|name| name.contains('/') && !name.contains(' ')), "{names}");
            Ok(format!("{} rows", rows.len()))
        });
    }
    table.row("certs, with the roots", || {
        let certs = a.rows("certs")?;
        ensure!(certs.len() == 2 && certs.iter().all(|cert| cert["state"] == "valid"), "{certs:?}");
        let text = a.text("certs")?;
        words(&text, &["/sa/client", "/sa/near", "SHA-256"])?;
        ensure!(a.text("certs -o name")?.lines().count() == 2);
        ensure!(a.text("certs --roots")?.lines().count() == 2, "one root");
        Ok(String::new())
    });
    table.row("connections: order, fields, namespaces", || {
        for key in ["id", "bytes", "sent", "received", "source", "destination", "service", "path", "security"]
        {
            let rows = a.rows(&format!("connections --sort {key}"))?;
            // From the tunnel one row, from the direct one two, from the one left none or one, from outside one.
            ensure!(rows.len() >= 4, "{key}: {rows:?}");
            let bytes =
                |row: &Value| row["bytes_sent"].as_u64().unwrap() + row["bytes_received"].as_u64().unwrap();
            let in_order = match key {
                "id" => rows.is_sorted_by_key(|row| row["id"].as_u64()),
                "bytes" => rows.iter().map(bytes).is_sorted_by(|left, right| left >= right),
                "security" => rows[0]["security"] == "plaintext",
                _ => true,
            };
            ensure!(in_order, "--sort {key}: {rows:?}");
        }
        let tunnel = a.rows("connections --field-selector path=tunnel,dst.name=far")?;
        ensure!(tunnel.len() == 1 && tunnel[0]["bytes_sent"] == BYTES, "{tunnel:?}");
        let yard = a.rows("connections -n yard")?;
        ensure!(
            !yard.is_empty()
                && yard
                    .iter()
                    .all(|row| row["src"]["namespace"] == "yard" || row["dst"]["namespace"] == "yard"),
            "{yard:?}"
        );
        Ok(String::new())
    });
    table.row("connections --watch in a pipe that is closed early", || {
        let began = Instant::now();
        let said = a.shell("{ meshctl connections -w --interval 1; echo ended $? >&2; } | head -n 12")?;
        words(&said.out, &["ID", "tunnel"])?;
        ensure!(said.out.matches("DIRECTION").count() >= 2, "it came once: {}", said.out);
        ensure!(said.err == "ended 0\n" && began.elapsed() < SOON, "{said:?}");
        Ok(String::new())
    });
    table.row("a pipe that is closed early is no failure", || {
        for verb in ["connections", "pods -o json", "services -o yaml", "bpf maps -o wide", "man", "logs"] {
            for reader in ["head -n 1", "true"] {
                let line = format!("{{ meshctl {verb}; echo ended $? >&2; }} | {reader}");
                let said = a.shell(&line)?;
                ensure!(said.err.ends_with("ended 0\n"), "{line}: {said:?}");
            }
        }
        Ok(String::new())
    });
    Ok(())
}

/// Verbs about one thing.
fn details(stage: &Stage<'_>, a: &Meshctl, b: &Meshctl, table: &mut Table) {
    let controller = || Meshctl::of(stage.lab.controller().admin_socket());
    table.row("status, of an agent and of the controller", || {
        let status = a.json("status")?;
        ensure!(status["node"] == "a" && status["controller"]["connected"] == true, "{status}");
        words(&a.text("status")?, &["complete", "2 captured", "5 of 5"])?;
        let yaml: Value = serde_saphyr::from_str(&a.text("status -o yaml")?)?;
        ensure!(yaml["trust_domain"] == status["trust_domain"], "{yaml}");
        let agents = controller()?.json("status")?["agents"].clone();
        ensure!(agents.as_array().is_some_and(|agents| agents.len() == 2), "{agents}");
        Ok(String::new())
    });
    table.row("endpoints of one Service", || {
        let rows = a.rows("endpoints shop/web")?;
        let far = format!("{}:{PORT}", stage.far.v4());
        ensure!(rows.iter().any(|row| row.to_string().contains(&far)), "{rows:?}");
        words(&a.text("endpoints web -n shop --chosen")?, &[&far, "shop/far", "yes"])?;
        Ok(format!("{} endpoints", rows.len()))
    });
    table.row("policy list and show", || {
        let list = b.rows("policy list")?;
        ensure!(list.len() == 1 && list[0]["name"] == "no-far" && list[0]["action"] == "DENY", "{list:?}");
        words(&b.text("policy show shop/no-far")?, &["DENY", "Enforce", "/sa/far"])?;
        words(&controller()?.text("policy list")?, &["no-far", "DENY"])?;
        Ok(String::new())
    });
    table.row("explain: admitted, refused, and a plain one", || {
        words(
            &a.ends("explain shop/client shop/far:7000", 0)?.out,
            &["tunnel", "allow", "as the model says"],
        )?;
        words(&a.ends("explain shop/client service/shop/web:80", 0)?.out, &["shop/web", "allow"])?;
        words(&a.ends("explain shop/client yard/outside:7000", 0)?.out, &["passthrough", "allow"])?;
        words(&b.ends("explain shop/far shop/near:7000", 1)?.out, &["deny", "policy_denied"])?;
        Ok(String::new())
    });
    table.row("log-level: set, put back by itself, reset, a bad filter", || {
        let at_start = a.rows("log-level")?[0].clone();
        a.text("log-level debug --for 60s")?;
        let now = a.rows("log-level")?[0].clone();
        ensure!(
            now["filter"] == "debug" && now["start"] == at_start["start"] && now["until"].is_string(),
            "{now}"
        );
        a.text("log-level debug --for 1s")?;
        eventually(SOON, || match a.rows("log-level") {
            Ok(rows) if rows[0] == at_start => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        let said = a.ends("log-level info,weft==", 1)?;
        ensure!(said.err.contains("is not a log filter") && said.err.lines().count() == 1, "{said:?}");
        a.text("log-level warn")?;
        ensure!(a.rows("log-level")?[0]["filter"] == "warn");
        a.text("log-level --reset")?;
        ensure!(a.rows("log-level")?[0] == at_start, "not put back");
        Ok(at_start["filter"].to_string())
    });
    table.row("top --once, as a table and as JSON, while pods talk", || {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let talker = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    talk(&stage.client, &stage.far, 1)?;
                }
                anyhow::Ok(())
            });
            let seen = || -> Result<Vec<Value>> {
                words(&a.text("top --once")?, &["CONN/S", "shop/client", "shop/far", "mtls"])?;
                a.rows("top --once --sort connections")
            };
            let seen = seen();
            stop.store(true, Ordering::Relaxed);
            talker.join().expect("no panic")?;
            let first = seen?.into_iter().next().context("a talker")?;
            ensure!(first["source"]["name"] == "client" && first["destination"]["name"] == "far", "{first}");
            Ok(first.to_string())
        })
    });
    table.row("version, man, completion, explain-error: nobody need be there", || {
        let nobody = Meshctl::of(&stage.lab.place().dir().join("nobody.sock"))?;
        words(&a.text("version")?, &["Client:", "Agent:"])?;
        words(&nobody.text("version --client")?, &["Client:"])?;
        words(&nobody.text("man")?, &[".TH meshctl 1", "SYNOPSIS"])?;
        for shell in ["bash", "zsh", "fish"] {
            words(&nobody.text(&format!("completion {shell}"))?, &["meshctl", "support-bundle"])?;
        }
        words(&nobody.text("explain-error policy_denied")?, &["DENY", "meshctl explain"])?;
        ensure!(nobody.text("explain-error")?.lines().count() > 50);
        let dir = stage.lab.place().dir().join("man");
        std::fs::create_dir_all(&dir)?;
        nobody.text(&format!("man --dir {}", dir.display()))?;
        ensure!(dir.join("meshctl-explain.1").is_file() && dir.join("meshctl.1").is_file());
        Ok(String::new())
    });
}

/// What bpftool says of the same maps and programs.
fn kernel(stage: &Stage<'_>, a: &Meshctl, table: &mut Table) {
    let name = "bpf maps NAME and bpf progs agree with bpftool";
    let Some(bpftool) = program("bpftool") else {
        return table.skip(name, "bpftool is not here");
    };
    let ask = |words: &[&str]| -> Result<Value> {
        let output = std::process::Command::new(&bpftool).arg("-j").args(words).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("bpftool {words:?}"))
    };
    table.row(name, || {
        let mine = a.json("bpf maps mesh_addrs")?;
        let line = mine["bpftool"].as_str().context("the line")?;
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        let theirs = ask(&words)?;
        let mut there: Vec<(String, u64)> = theirs
            .as_array()
            .context("a list")?
            .iter()
            .map(|entry| {
                let bytes = entry["key"]
                    .as_array()
                    .context("key")?
                    .iter()
                    .map(|byte| u8::from_str_radix(byte.as_str()?.trim_start_matches("0x"), 16).ok());
                let key: [u8; 16] = bytes.collect::<Option<Vec<u8>>>().context("bytes")?.try_into().unwrap();
                let address = std::net::Ipv6Addr::from(key).to_canonical().to_string();
                let cookie = entry["formatted"]["value"]["netns_cookie"].as_u64().context("its cookie")?;
                Ok((address, cookie))
            })
            .collect::<Result<_>>()?;
        let of = |entry: &Value| {
            Some((entry["key"].as_str()?.to_owned(), entry["value"]["netns_cookie"].as_u64()?))
        };
        let entries = mine["entries"].as_array().context("entries")?;
        let mut here: Vec<(String, u64)> = entries.iter().filter_map(of).collect();
        here.sort();
        there.sort();
        ensure!(here == there && here.len() == 4, "{here:?} and {there:?}");
        ensure!(here.iter().any(|(address, _)| *address == stage.client.v4().to_string()), "{here:?}");
        let programs = a.rows("bpf progs")?;
        for row in &programs {
            let id = row["ids"][0].to_string();
            let theirs = ask(&["prog", "show", "id", &id])?;
            ensure!(theirs["tag"] == row["tag"], "{row} and {theirs}");
        }
        Ok(format!("{} entries, {} programs", here.len(), programs.len()))
    });
}

/// Dumps, what differs between them, and the support bundle.
fn files(stage: &Stage<'_>, a: &Meshctl, table: &mut Table) {
    let place = stage.lab.place().dir();
    table.row("config dump and diff", || {
        let before = place.join("before.json");
        std::fs::write(&before, a.text("config dump -o json")?)?;
        words(&a.text("config dump")?, &["SETTING", "access_log.mode", "MeshConfig"])?;
        let diff = format!("config diff {}", before.display());
        a.ends(&diff, 0)?;
        a.ends(&format!("{diff} {}", before.display()), 0)?;
        let controller = stage.lab.controller().admin_socket().display();
        a.ends(&format!("config diff --controller-socket {controller}"), 0)?;
        let _new = stage.lab.service("shop/later").port(80, PORT).select("app", "far").create()?;
        eventually(SOON, || {
            let said = a.run(&diff).map_err(|error| format!("{error:#}"))?;
            let is_so = said.code == Some(1) && said.out.contains("later");
            if is_so { Ok(()) } else { Err(format!("{said:?}")) }
        })?;
        let changes = a.ends(&format!("{diff} -o json"), 1)?;
        let changes: Value = serde_json::from_str(&changes.out)?;
        ensure!(changes.as_array().is_some_and(|changes| changes.len() == 1), "{changes}");
        Ok(changes.to_string())
    });
    table.row("support-bundle", || {
        let file = place.join("bundle.tar.gz");
        let line = format!("support-bundle --file {}", file.display());
        a.ends(&line, 0)?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
        ensure!(mode & 0o777 == 0o600, "mode {mode:o}");
        let tar = program("tar").context("tar is not here")?;
        let list = std::process::Command::new(tar).arg("tzf").arg(&file).output()?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let mut parts: Vec<&str> =
            list.lines().filter_map(|line| line.strip_prefix("weft-support/")).collect();
        let mut wanted = PARTS.to_vec();
        parts.sort_unstable();
        wanted.sort_unstable();
        ensure!(parts == wanted, "{parts:?}");
        let again = a.ends(&line, 1)?;
        ensure!(again.err.contains("--force"), "{again:?}");
        a.ends(&format!("{line} --force"), 0)?;
        Ok(format!("{} parts", parts.len()))
    });
}

/// From the client's errno to the rule.
fn refusal(stage: &Stage<'_>, b: &Meshctl, table: &mut Table) {
    table.row("a refusal is followed from ECONNREFUSED to the rule in one command", || {
        let to = SocketAddr::new(stage.near.v4().into(), PORT);
        let error = stage.far.connect(to, SOON)?.err().context("it was admitted")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        let text = b.ends(&format!("explain shop/far shop/near:{PORT}"), 1)?.out;
        words(
            &text,
            &["AuthorizationPolicy shop/no-far rule 0", "deny (policy_denied)", "deny, as the model says"],
        )?;
        let told = b.ends(&format!("explain shop/far shop/near:{PORT} -o json"), 1)?.out;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(told["verdict"] == "deny" && told["reason"] == "policy_denied", "{told}");
        let row = eventually(SOON, || {
            let rows =
                b.rows("logs --since 1m --reason policy_denied").map_err(|error| format!("{error:#}"))?;
            rows.into_iter().next_back().ok_or_else(|| "no row".to_owned())
        })?;
        ensure!(row["policy"] == "shop/no-far" && row["event"] == "refused", "{row}");
        ensure!(row["source"]["pod"] == "far" && row["destination"]["pod"] == "near", "{row}");
        words(&b.text("logs --tail 1")?, &["policy_denied", "shop/far", "shop/no-far"])?;
        ensure!(b.text("logs -n yard")?.is_empty(), "none of them is about yard");
        Ok(row["detail"].to_string())
    });
    table.row("logs --follow says what is refused meanwhile, and ends with its reader", || {
        let to = SocketAddr::new(stage.near.v4().into(), PORT);
        let known = b.rows("logs")?.len();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _refused = stage.far.connect(to, SOON);
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            let line = format!("{{ meshctl logs -f -o json; echo ended $? >&2; }} | head -n {}", known + 3);
            let said = b.shell(&line);
            stop.store(true, Ordering::Relaxed);
            let said = said?;
            ensure!(said.err == "ended 0\n", "{said:?}");
            for line in said.out.lines() {
                let row: Value = serde_json::from_str(line)?;
                ensure!(row["policy"] == "shop/no-far", "{row}");
            }
            Ok(format!("{} lines", said.out.lines().count()))
        })
    });
}

fn bad_input(stage: &Stage<'_>, a: &Meshctl, table: &mut Table) {
    for (line, code, wanted) in [
        ("frobnicate", 2, "unrecognized subcommand"),
        ("pods -o xml", 2, "xml"),
        ("connections --sort mood", 2, "mood"),
        ("statsu", 2, "status"),
        ("logs --reason policy_denid", 2, "policy_denied"),
        ("pods --field-selector stat=captured", 2, "state"),
        ("config diff", 2, "FILE"),
        ("log-level debug --for soon", 2, "soon"),
        ("explain shop/client shop/far", 2, "has no port"),
        ("explain shop/client shop/faar:7000", 1, "is it shop/far?"),
        ("explain shop/clint service/shop/web:80", 1, "is it shop/client?"),
        ("explain-error policy_denyed", 1, "policy_denied"),
        ("endpoints shop/wep", 1, "shop/web"),
        ("policy show shop/no-fer", 1, "shop/no-far"),
        ("bpf maps mesh_adrs", 1, "mesh_addrs"),
        ("config diff /nonexistent", 1, "/nonexistent"),
        ("support-bundle --file /nonexistent/x.tar.gz", 1, "/nonexistent/x.tar.gz"),
        ("--socket /nonexistent/a.sock pods", 2, "--socket"),
    ] {
        table.row(&format!("`{line}` ends with {code} and names {wanted}"), || {
            let said = a.ends(line, code)?;
            words(&said.err, &[wanted])?;
            ensure!(said.out.is_empty(), "{said:?}");
            // Usage may take some lines; all else is one.
            ensure!(code == 2 || said.err.lines().count() == 1, "{said:?}");
            Ok(said.err.lines().next().unwrap_or_default().to_owned())
        });
    }
    table.row("nobody there: code 3, and one line with the socket", || {
        let socket = stage.lab.place().dir().join("nobody.sock");
        let nobody = Meshctl::of(&socket)?;
        for verb in [
            "status",
            "pods",
            "services",
            "endpoints",
            "workloads",
            "connections",
            "certs",
            "config dump",
            "policy list",
            "logs",
            "log-level",
            "top --once",
            "bpf maps",
            "bpf progs",
            "explain a/b c/d:1",
            "support-bundle --file /nonexistent/x",
        ] {
            let said = nobody.ends(verb, 3)?;
            words(&said.err, &[&socket.display().to_string()])?;
            ensure!(said.err.lines().count() == 1 && said.out.is_empty(), "{verb}: {said:?}");
        }
        Ok(String::new())
    });
    table.row("what is refused changes nothing", || {
        ensure!(setting(stage.lab.agent("a"), "access_log.mode")? == "All");
        Ok(String::new())
    });
}

/// Colours and widths.
fn terminals(a: &Meshctl, table: &mut Table) {
    if program("script").is_none() || program("stty").is_none() {
        return table.skip("terminals", "script and stty are not here");
    }
    table.row("colours are for terminals, and NO_COLOR takes them away", || {
        ensure!(a.terminal(200, "pods")?.contains('\u{1b}'), "no colour on a terminal");
        let sober = a.clone().env("NO_COLOR", "1").terminal(200, "pods")?;
        words(&sober, &["captured"])?;
        for text in [sober, a.terminal(200, "pods --no-color")?, a.text("pods")?] {
            ensure!(!text.contains('\u{1b}'), "{text:?}");
        }
        Ok(String::new())
    });
    table.row("a terminal of 40 columns", || {
        for verb in ["pods", "connections", "certs", "workloads -o wide", "bpf maps", "top --once"] {
            let text = a.clone().env("NO_COLOR", "1").terminal(40, verb)?;
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
            ensure!(longest <= 40 && !text.is_empty(), "{verb}: a line of {longest}: {text}");
        }
        Ok(String::new())
    });
}
