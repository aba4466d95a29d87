//! Promise: however the owner of a lab ends, nothing of lab and mesh is left: no namespace, cgroup, pin or process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datapath::held::Held;
use lab::row::Table;
use lab::{Lab, Place, eventually, programs, teardown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Says to the victim how it is to end.
const FATE: &str = "WEFT_DATAPATH_VICTIM";
const PORT: u16 = 7000;

/// How the owner ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Return,
    Panic,
    Signal(Signal),
}

/// Not a test by itself: the process that the test below starts and ends.
#[test]
#[ignore = "started by the other test of this file"]
fn victim() {
    let Ok(fate) = std::env::var(FATE) else { return };
    let lab = Lab::builder().node("a").node("b").start().unwrap();
    let _held = with_traffic(&lab).unwrap();
    println!("\nlab {} is up", lab.place().id());
    match fate.as_str() {
        "return" => lab.stop().unwrap(),
        "panic" => panic!("as it was told to"),
        _ => std::thread::sleep(Duration::from_secs(100)),
    }
}

/// A mesh at work: hooks attached, a tunnel open.
fn with_traffic(lab: &Lab) -> Result<(Held, programs::Server)> {
    lab.namespace("shop").captured()?;
    let client = lab.pod("shop/client").node("a").start()?;
    let web = lab.pod("shop/web").node("b").start()?;
    let server = programs::peer(&web, "echo", PORT, &[])?;
    lab.await_captured(&client)?;
    lab.await_peers_tunnel(&web)?;
    let held = Held::open(&client, SocketAddr::new(web.v4().into(), PORT))?;
    held.ensure_mtls(lab.agent("a"))?;
    // A process that nobody waits for.
    std::mem::forget(client.spawn(["setsid", "sleep", "1000"])?);
    Ok((held, server))
}

#[test]
fn nothing_is_left_however_the_owner_ends() {
    if !lab::ready("nothing_is_left_however_the_owner_ends") {
        return;
    }
    let mut table = Table::new("nothing_is_left_however_the_owner_ends");
    let ends = [
        ("after a run", End::Return),
        ("after a panic", End::Panic),
        ("after SIGINT", End::Signal(Signal::SIGINT)),
        ("after SIGTERM", End::Signal(Signal::SIGTERM)),
        ("after SIGKILL", End::Signal(Signal::SIGKILL)),
    ];
    for (name, end) in ends {
        table.row(name, || end_and_look(end));
    }
    table.finish();
}

fn end_and_look(end: End) -> Result<String> {
    // Its output stays open: a harness that cannot print its last line fails.
    let (mut child, place, _output) = start(end)?;
    let start = Instant::now();
    if let End::Signal(signal) = end {
        let before = teardown::left(&place);
        // Directory, cgroup, and for each of two nodes a namespace and pins; the pods' namespaces come on top.
        ensure!(before.len() >= 6, "only {before:?} while it is up");
        ensure!(!processes(&place).is_empty(), "no process while it is up");
        kill(Pid::from_raw(child.id() as i32), signal)?;
    }
    let status = child.wait()?;
    match end {
        End::Return => ensure!(status.success(), "{status}"),
        End::Panic => ensure!(status.code().is_some_and(|code| code != 0), "{status}"),
        // This one leaves the work to the lab's guard.
        End::Signal(Signal::SIGKILL) => ensure!(status.code().is_none(), "{status}"),
        End::Signal(signal) => ensure!(status.code() == Some(128 + signal as i32), "{status}"),
    }
    let patience = if end == End::Signal(Signal::SIGKILL) { 20 } else { 0 };
    eventually(Duration::from_secs(patience), || {
        let (left, alive) = (teardown::left(&place), processes(&place));
        if left.is_empty() && alive.is_empty() { Ok(()) } else { Err(format!("{left:?} {alive:?}")) }
    })?;
    Ok(format!("no namespace, cgroup, pin or process {:.1?} after the end began", start.elapsed()))
}

/// Starts a victim and waits until its lab is up.
fn start(end: End) -> Result<(Child, Place, BufReader<ChildStdout>)> {
    let fate = match end {
        End::Return => "return",
        End::Panic => "panic",
        End::Signal(..) => "wait",
    };
    let mut child = Command::new(std::env::current_exe()?)
        .args(["victim", "--exact", "--ignored", "--nocapture"])
        .env(FATE, fate)
        .env_remove("WEFT_LAB_KEEP")
        .env_remove("WEFT_ROWS")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("its output")?);
    let lines = output.by_ref().lines();
    let id = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("lab ")?.strip_suffix(" is up").map(str::to_owned));
    match id {
        Some(id) => Ok((child, Place::of(&id), output)),
        None => bail!("the victim's lab did not come up: {}", child.wait()?),
    }
}

/// Live processes of a lab: those in its cgroup, and those whose command line names its directory. One that has ended and
/// waits for whoever inherited it is not alive.
fn processes(place: &Place) -> Vec<String> {
    let directory = place.dir().display().to_string();
    let cgroup = format!("/{}", place.dir().file_name().unwrap_or_default().to_string_lossy());
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut alive = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let command = read("cmdline").replace('\0', " ");
        let is_ended = read("stat").rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
        if !is_ended && (command.contains(&directory) || read("cgroup").contains(&cgroup)) {
            alive.push(command);
        }
    }
    alive
}
