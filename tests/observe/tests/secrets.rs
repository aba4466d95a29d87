//! Promise: a secret that is planted in every place that holds one is in no log, no answer, no metric, no dump and no support
//! bundle, whatever form it could take there; also while everything is logged that can be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lab::row::Table;
use lab::{Lab, Pod, eventually};
use observe::cli::Meshctl;
use observe::secrets::{Secret, files_below, keys_below};
use observe::setting::{await_setting, configure, deny};
use observe::stage::{Stage, talk};
use observe::{program, workspace};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
/// What an environment has that is nobody's business.
const PLANTED: &str = "planted-5f2c9a71e0d84b36-planted";
/// Ports of an agent and of a controller that anybody on the node reaches.
const PORTS: [u16; 2] = [15020, 15021];

/// Everything that is said, and where.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn add(&mut self, place: String, text: impl Into<Vec<u8>>) {
        self.0.push((place, text.into()));
    }

    /// Fails with the names of what was found, and where.
    fn has_none_of(&self, secrets: &[Secret]) -> Result<String> {
        let mut found = Vec::new();
        for (place, text) in &self.0 {
            found.extend(secrets.iter().filter(|secret| secret.is_in(text)).map(|secret| {
                let line = text.split(|byte| *byte == b'\n').position(|line| secret.is_in(line));
                format!("{} is in {place}, line {:?}", secret.name, line.map(|line| line + 1))
            }));
        }
        ensure!(found.is_empty(), "{}", found.join("\n    "));
        let bytes: usize = self.0.iter().map(|(_, text)| text.len()).sum();
        ensure!(bytes > 0, "nothing was said at all");
        Ok(format!("{} places, {} KiB", self.0.len(), bytes >> 10))
    }
}

#[test]
fn no_secret_is_said_anywhere() {
    const NAME: &str = "no_secret_is_said_anywhere";
    if !lab::ready(NAME) {
        return;
    }
    Lab::builder().node("a").node("b").run(|lab| {
        let mut table = Table::new(NAME);
        let stage = Stage::set(lab)?;
        configure(lab, "keyCache: disk, accessLog: {mode: All, format: json}")?;
        await_setting(lab, "keys_on_disk", &json!(true))?;
        loud(lab)?;
        busy(&stage)?;
        let secrets = planted(lab, &mut table)?;
        table.row("logs and standard output", || {
            let mut said = Said::default();
            for path in files_below(&lab.place().logs())? {
                let text = fs::read(&path)?;
                said.add(path.display().to_string(), text);
            }
            let trace = said.0.iter().filter(|(_, text)| text.windows(7).any(|word| word == b" TRACE "));
            ensure!(trace.count() >= 3, "both agents and the controller have said everything");
            said.has_none_of(&secrets)
        });
        let ends = lab.agents().iter().map(|agent| (agent.node(), agent.admin_socket(), agent.pod().clone()));
        let controller = lab.controller();
        let ends = ends.chain([("controller", controller.admin_socket(), controller.pod().clone())]);
        for (name, socket, pod) in ends {
            table.row(&format!("every admin answer and metric of {name}"), || {
                let mut said = Said::default();
                for path in paths(name)? {
                    said.add(path.clone(), ask(UnixStream::connect(socket)?, &path)?);
                }
                let answered = said.0.iter().filter(|(_, text)| text.starts_with(b"HTTP/1.1 200")).count();
                ensure!(
                    answered >= if name == "controller" { 5 } else { 19 },
                    "{answered} paths are answered"
                );
                for port in PORTS {
                    said.add(format!("port {port}"), over_tcp(&pod, port)?);
                }
                said.has_none_of(&secrets)
            });
            table.row(&format!("config dump, every verb, and the support bundle of {name}"), || {
                let meshctl = Meshctl::of(socket)?;
                let mut said = Said::default();
                for verb in ["status", "policy list", "log-level"] {
                    said.add(verb.into(), meshctl.text(&format!("{verb} -o yaml"))?);
                }
                if name != "controller" {
                    for verb in ["config dump", "certs", "certs --roots", "workloads", "logs", "bpf maps"] {
                        for format in ["wide", "json", "yaml"] {
                            said.add(verb.into(), meshctl.text(&format!("{verb} -o {format}"))?);
                        }
                    }
                }
                bundle(&meshctl, &lab.place().dir().join(format!("bundle-{name}")), &mut said)?;
                said.has_none_of(&secrets)
            });
        }
        table.row("command lines", || {
            let mut said = Said::default();
            let pids = lab.agents().iter().map(lab::Agent::pid).chain([controller.pid()]);
            for pid in pids {
                let pid = pid.context("it runs")?;
                said.add(format!("process {pid}"), fs::read(format!("/proc/{pid}/cmdline"))?);
            }
            said.has_none_of(&secrets)
        });
        table.row("files of the node that others than root may read", || {
            let mut said = Said::default();
            for path in files_below(&lab.place().dir())? {
                // What is written beside and then renamed over is there for a moment.
                let read = || -> std::io::Result<Option<Vec<u8>>> {
                    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions());
                    if mode & 0o077 != 0 { fs::read(&path).map(Some) } else { Ok(None) }
                };
                match read() {
                    Ok(Some(bytes)) => said.add(path.display().to_string(), bytes),
                    Ok(None) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error).with_context(|| path.display().to_string()),
                }
            }
            said.has_none_of(&secrets)
        });
        table.finish();
        Ok(())
    });
}

/// Starts everything anew with a secret in its environment, and with everything logged but what changes the kernel's programs.
fn loud(lab: &Lab) -> Result<()> {
    let planted = format!("WEFT_LAB_SECRET={PLANTED}");
    let under = ["env", &planted, "RUST_LOG=trace,weft::kernel=info"];
    lab.controller().kill();
    lab.controller().launch_under(&under)?;
    lab.controller().await_listening()?;
    for agent in lab.agents() {
        agent.kill();
        agent.launch_under(&under)?;
        agent.await_ready()?;
    }
    eventually(SOON, || {
        let connected = lab
            .agents()
            .iter()
            .all(|agent| agent.status().is_ok_and(|status| status["controller"]["connected"] == true));
        if connected { Ok(()) } else { Err("an agent is not connected".to_owned()) }
    })
}

/// Everything that may be worth a line: connections on every way, a refusal, a certificate for a new pod, strangers at ports.
fn busy(stage: &Stage<'_>) -> Result<()> {
    for pod in [&stage.client, &stage.near, &stage.far] {
        stage.lab.await_captured(pod)?;
    }
    deny(stage.lab, "far")?;
    let guest = stage.lab.pod("shop/guest").node("b").service_account("guest").start()?;
    stage.lab.await_captured(&guest)?;
    stage.lab.await_peers_tunnel(&stage.far)?;
    eventually(SOON, || talk(&stage.client, &stage.far, 3).map_err(|error| format!("{error:#}")))?;
    for way in stage.ways() {
        talk(&way.from, &way.to, 3)?;
    }
    let _refused = stage.far.connect(SocketAddr::new(stage.near.v4().into(), 7000), SOON)?;
    Ok(())
}

/// All of them, each where it is found.
fn planted(lab: &Lab, table: &mut Table) -> Result<Vec<Secret>> {
    let mut secrets = vec![Secret::word("the environment's", PLANTED)];
    for agent in lab.agents() {
        let token = fs::read_to_string(agent.token_file())?;
        secrets.push(Secret::word(&format!("the token of node {}", agent.node()), &token));
    }
    let keys = eventually(SOON, || {
        let keys = keys_below(&lab.place().dir()).map_err(|error| format!("{error:#}"))?;
        // The root's, and those of client, near, far and guest.
        if keys.len() >= 5 { Ok(keys) } else { Err(format!("{} keys on disk", keys.len())) }
    })?;
    secrets.extend(keys);
    table.row("what is looked for can be found", || {
        let tokens = fs::read(lab.place().dir().join("controller/tokens"))?;
        let known = secrets.iter().filter(|secret| secret.is_in(&tokens)).count();
        ensure!(known == lab.agents().len(), "{known} tokens in the controller's file");
        for secret in secrets.iter().filter(|secret| Path::new(&secret.name).is_file()) {
            ensure!(secret.is_in(&fs::read(&secret.name)?), "{} is not in its own file", secret.name);
        }
        for pid in lab.agents().iter().map(lab::Agent::pid).chain([lab.controller().pid()]) {
            let environment = fs::read(format!("/proc/{}/environ", pid.context("it runs")?))?;
            ensure!(secrets[0].is_in(&environment), "nothing is planted in process {pid:?}");
        }
        Ok(format!("{} secrets", secrets.len()))
    });
    Ok(secrets)
}

/// Every path that an end may be asked for, as the list of them in the source has it, with queries where they take some.
fn paths(name: &str) -> Result<Vec<String>> {
    let source = fs::read_to_string(workspace().join("crates/mesh-telemetry/src/api.rs"))?;
    let constants =
        source.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": &str = \"/"));
    let mut paths: Vec<String> = constants
        .filter_map(|(_, rest)| rest.strip_suffix("\";"))
        .map(|path| format!("/{path}"))
        .filter(|path| {
            path.starts_with("/v1/") || ["/healthz", "/readyz", "/metrics"].contains(&path.as_str())
        })
        .collect();
    ensure!(paths.len() >= 19, "{paths:?}");
    paths.push("/v1/explain?src=shop/client&dst=shop/far:7000".into());
    paths.push("/v1/refusals?after=0&limit=1000".into());
    paths.push("/nothing-here".into());
    if name != "controller" {
        let maps = ["mesh_settings", "mesh_self", "mesh_pods", "mesh_cgroups", "mesh_addrs", "mesh_services"];
        let more =
            ["mesh_listeners", "mesh_originals", "mesh_dests", "mesh_sources", "mesh_pairs", "mesh_direct"];
        let of_map = |map: &&str| format!("/v1/bpf/entries?map={map}&limit=10000");
        paths.extend(maps.iter().chain(&more).map(of_map));
    }
    Ok(paths)
}

fn ask(mut stream: impl Read + Write, path: &str) -> Result<Vec<u8>> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 "), "{path} is not answered");
    Ok(answer)
}

/// Metrics or readiness, from inside the pod; nothing where nobody listens.
fn over_tcp(pod: &Pod, port: u16) -> Result<Vec<u8>> {
    pod.netns_thread(|| -> Result<Vec<u8>> {
        let Ok(stream) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) else {
            return Ok(Vec::new());
        };
        ask(stream, if port == PORTS[0] { "/metrics" } else { "/readyz" })
    })?
}

/// Everything in the support bundle of an end, unpacked, and its names.
fn bundle(meshctl: &Meshctl, directory: &Path, said: &mut Said) -> Result<()> {
    fs::create_dir_all(directory)?;
    let file = directory.join("bundle.tar.gz");
    meshctl.text(&format!("support-bundle --file {}", file.display()))?;
    let tar = program("tar").context("tar is not here")?;
    let unpacked = Command::new(tar).arg("xzf").arg(&file).arg("-C").arg(directory).status()?;
    ensure!(unpacked.success(), "tar: {unpacked}");
    let parts = files_below(&directory.join("weft-support"))?;
    ensure!(parts.len() >= 4, "{parts:?}");
    for path in parts {
        let text = fs::read(&path)?;
        said.add(path.display().to_string(), text);
    }
    Ok(())
}
