//! The demo with traffic that goes on: Prometheus sees all kinds of it, and nothing of it stays.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lab::{Place, eventually, teardown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn demo(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-lab"));
    command.args(["demo", "--observe"]).args(more).env_remove("WEFT_LAB_KEEP");
    command
}

/// Whether to go on: there is a lab to be had, and a Prometheus.
fn ready(test: &str) -> bool {
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    let has_prometheus =
        ["/usr/bin/prometheus", "/usr/local/bin/prometheus"].iter().any(|path| Path::new(path).exists());
    assert!(has_prometheus || !in_ci, "{test} needs prometheus: run `cargo xtask setup`");
    if !has_prometheus {
        lab::row::skip(test, "all", "prometheus is not here: run `cargo xtask setup`");
    }
    has_prometheus && lab::ready(test)
}

/// Where a demo was, as it says itself; it may name others that were kept before.
fn place(text: &str) -> Place {
    let mut own = text.lines().filter(|line| line.contains("two nodes made of"));
    let id = own.find_map(|line| line.split_once("(lab ")?.1.split_once(')').map(|(id, _)| id));
    Place::of(id.expect("the demo says its lab's id"))
}

/// Where its Prometheus was to be had.
fn prometheus(text: &str) -> SocketAddr {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("http://"));
    line.and_then(|address| address.parse().ok()).expect("the demo says where its Prometheus is")
}

fn await_gone(text: &str) {
    let (place, door) = (place(text), prometheus(text));
    let gone = || match teardown::left(&place).as_slice() {
        [] if TcpStream::connect_timeout(&door, Duration::from_secs(1)).is_err() => Ok(()),
        [] => Err(format!("{door} still answers")),
        left => Err(left.join(", ")),
    };
    eventually(Duration::from_secs(10), gone).unwrap();
}

/// One test after the other: a demo that is over is told by its Prometheus's port, which the next one takes.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a kept demo away also when the test fails.
struct Kept(Place);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = teardown::remove(&self.0);
    }
}

#[test]
fn prometheus_sees_every_kind_of_traffic_and_nothing_stays() {
    if !ready("prometheus_sees_every_kind_of_traffic_and_nothing_stays") {
        return;
    }
    let _turn = turn();
    let output = demo(&["--seconds", "30"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(!text.contains('\x1b'), "colours in a pipe");
    for words in ["policy_not_allowed", "Prometheus has all 8 kinds of traffic", "Grafana", "meshctl"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    await_gone(&text);
}

#[test]
fn a_kept_one_goes_on_and_ctrl_c_ends_one_that_is_not() {
    if !ready("a_kept_one_goes_on_and_ctrl_c_ends_one_that_is_not") {
        return;
    }
    let _turn = turn();
    let output = demo(&["--keep"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let kept = Kept(place(&text));
    assert!(output.status.success(), "{text}");
    // What is counted goes on without the demo.
    let ask = || {
        let expression = "sum(weft_connections_opened_total{security=\"mtls\"})";
        lab::prometheus::Client::new(prometheus(&text), None).value(expression)
    };
    let before = ask().unwrap();
    eventually(Duration::from_secs(20), || match ask() {
        Ok(after) if after > before => Ok(()),
        other => Err(format!("{before}, and then {other:?}")),
    })
    .unwrap();

    // Another one finds its port taken, and takes another.
    let mut child = demo(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut second = String::new();
    while !second.contains("Ctrl-C ends all of it") {
        assert!(reader.read_line(&mut second).unwrap() > 0, "{second}");
    }
    assert_ne!(prometheus(&second), prometheus(&text));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    reader.read_to_string(&mut second).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32), "{second}");
    await_gone(&second);

    teardown::remove(&kept.0).unwrap();
    await_gone(&text);
}
