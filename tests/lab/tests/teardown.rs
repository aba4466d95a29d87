//! Whatever way the owner of a lab ends, nothing of the lab is left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::{Lab, Place, eventually, programs, teardown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FATE: &str = "WEFT_LAB_VICTIM";

/// Not a test by itself: the process that the tests below make and end.
#[test]
#[ignore = "started by the other tests of this file"]
fn victim() {
    let Ok(fate) = std::env::var(FATE) else { return };
    let lab = Lab::builder().node("a").node("b").without_mesh().start().unwrap();
    let one = lab.pod("shop/one").node("a").start().unwrap();
    let server = programs::peer(&one, "echo", 7, &[]).unwrap();
    // A process that has left its session and its handle.
    let stray = one.command(["setsid", "sleep", "1000"]).unwrap().spawn().unwrap();
    std::mem::forget(stray);
    // The nearest to a pin that needs no program: a directory of the agent's in bpffs.
    std::fs::create_dir_all(lab.place().bpffs("a").join("weft/maps")).unwrap();
    println!("\nlab {} is up", lab.place().id());
    if fate == "panic" {
        panic!("as it was told to");
    }
    std::thread::sleep(Duration::from_secs(100));
    drop(server);
}

/// Starts a victim and waits until its lab is up.
fn start(fate: &str) -> (Child, Place) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--ignored", "--nocapture"])
        .env(FATE, fate)
        .env_remove("WEFT_LAB_KEEP")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("lab ")?.strip_suffix(" is up").map(str::to_owned));
    (child, Place::of(&id.expect("the victim says its lab's id")))
}

fn assert_nothing_left(place: &Place, deadline: Duration) {
    eventually(deadline, || match teardown::left(place).as_slice() {
        [] => Ok(()),
        left => Err(left.join(", ")),
    })
    .unwrap();
    // Processes of a lab are in its cgroup, which is gone; programs that it started name its directory.
    let needle = place.dir().display().to_string();
    let strays: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(&needle))
        .collect();
    assert!(strays.is_empty(), "{strays:?}");
}

#[test]
fn a_lab_that_is_dropped_leaves_nothing() {
    if !lab::ready("a_lab_that_is_dropped_leaves_nothing") {
        return;
    }
    let lab = Lab::builder().node("a").without_mesh().start().unwrap();
    let pod = lab.pod("shop/one").start().unwrap();
    let mut process = pod.spawn(["sleep", "1000"]).unwrap();
    let place = lab.place().clone();
    assert!(teardown::left(&place).len() >= 3);
    drop(lab);
    assert_nothing_left(&place, Duration::ZERO);
    assert!(!process.is_running());
    assert!(pod.exec(["true"]).is_err(), "a pod that outlived its lab is of no use");
}

#[test]
fn a_panic_leaves_nothing() {
    if !lab::ready("a_panic_leaves_nothing") {
        return;
    }
    let (mut child, place) = start("panic");
    assert!(!child.wait().unwrap().success());
    assert_nothing_left(&place, Duration::ZERO);
}

#[test]
fn ctrl_c_and_sigterm_leave_nothing() {
    if !lab::ready("ctrl_c_and_sigterm_leave_nothing") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut child, place) = start("wait");
        assert!(!teardown::left(&place).is_empty());
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        assert_nothing_left(&place, Duration::ZERO);
    }
}

#[test]
fn sigkill_leaves_nothing_a_moment_later() {
    if !lab::ready("sigkill_leaves_nothing_a_moment_later") {
        return;
    }
    let (mut child, place) = start("wait");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_left(&place, Duration::from_secs(10));
}

#[test]
fn a_sweep_leaves_live_labs_alone_and_removes_dead_ones() {
    if !lab::ready("a_sweep_leaves_live_labs_alone_and_removes_dead_ones") {
        return;
    }
    let live = Lab::builder().node("a").without_mesh().start().unwrap();
    // A lab whose owner and guard are both gone: the owner's record names a process that is not there.
    let (mut child, dead) = start("wait");
    std::fs::write(dead.dir().join("detached"), "").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let swept = || {
        let program = lab::binary("weft-lab").unwrap();
        let output = Command::new(program).arg("sweep").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!swept().contains(dead.id()), "it was left up on purpose");
    std::fs::remove_file(dead.dir().join("detached")).unwrap();
    let said = swept();
    assert!(said.contains(dead.id()) && !said.contains(live.place().id()), "{said}");
    assert_nothing_left(&dead, Duration::ZERO);
    let pod = live.pod("shop/one").start().unwrap();
    pod.exec(["true"]).unwrap().ok().unwrap();
}
