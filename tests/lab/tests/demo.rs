//! The demo says what is so, and leaves nothing behind, whatever way it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Place, eventually, teardown};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-lab"));
    command.arg("demo").env_remove("WEFT_LAB_KEEP");
    command
}

/// Where a demo was, as it says itself; it may name others that were kept before.
fn place(text: &str) -> Place {
    let mut own = text.lines().filter(|line| line.contains("two nodes made of"));
    let id = own.find_map(|line| line.split_once("(lab ")?.1.split_once(')').map(|(id, _)| id));
    Place::of(id.expect("the demo says its lab's id"))
}

/// Takes a kept demo away also when the test fails. Not by `demo down`: that would take other people's too.
struct Kept(Place);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = teardown::remove(&self.0);
    }
}

#[test]
fn the_demo_holds_and_reports_and_leaves_nothing() {
    if !lab::ready("the_demo_holds_and_reports_and_leaves_nothing") {
        return;
    }
    let report = std::env::temp_dir().join(format!("weft-demo-report-{}.json", std::process::id()));
    let output = demo().arg("--report").arg(&report).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let written = std::fs::read_to_string(&report);
    let _ = std::fs::remove_file(&report);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains('\x1b'), "colours in a pipe");
    let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:?}");
    assert_eq!(teardown::left(&place(&text)), Vec::<String>::new());

    let report: Value = serde_json::from_str(&written.unwrap()).unwrap();
    let conversation = |from: &str, to: &str| {
        let identity = |who: &str| format!("spiffe://lab.weft.dev/ns/shop/sa/{who}");
        json!({
            "from": format!("shop/{from}"), "to": format!("shop/{to}"),
            "identity_from": identity(from), "identity_to": identity(to), "captured": true, "ok": true,
        })
    };
    let outside = json!({
        "from": "legacy/batch", "to": "legacy/files",
        "identity_from": null, "identity_to": null, "captured": false, "ok": true,
    });
    let expected = json!([
        conversation("frontend", "web"),
        conversation("mobile", "web"),
        conversation("frontend", "db"),
        conversation("frontend", "cart"),
        outside,
    ]);
    assert_eq!(report["conversations"], expected);
    let wire = &report["wire"];
    assert_eq!(wire["meshed_plaintext_bytes"], 0);
    assert!(wire["unmeshed_plaintext_bytes"].as_u64().unwrap() > 90_000, "{wire}");
    assert!(wire["tls_connections"].as_u64().unwrap() >= 3, "{wire}");
    assert!(report["seconds"].as_f64().unwrap() < 60.0, "{report}");
}

#[test]
fn a_kept_demo_can_be_entered_and_taken_away() {
    if !lab::ready("a_kept_demo_can_be_entered_and_taken_away") {
        return;
    }
    let output = demo().arg("--keep").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let kept = Kept(place(&text));
    assert!(output.status.success(), "{text}");
    let enter = |pod: &str, command: &[&str]| {
        let script = kept.0.dir().join("enter").join(pod);
        let output = Command::new(script).args(command).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let page = enter("shop-frontend", &["curl", "-sS", "--max-time", "15", "http://10.96.1.1/orders"]);
    assert!(page.starts_with("order 4711"), "{page}");
    // Every path that it prints is there.
    let words = text.split_whitespace().filter(|word| word.starts_with('/') && word.contains(kept.0.id()));
    for path in words.filter(|path| !path.ends_with("/POD")) {
        assert!(Path::new(path).exists(), "{path}");
    }
    teardown::remove(&kept.0).unwrap();
    assert_eq!(teardown::left(&kept.0), Vec::<String>::new());
}

#[test]
fn ctrl_c_in_the_middle_of_the_demo_leaves_nothing() {
    if !lab::ready("ctrl_c_in_the_middle_of_the_demo_leaves_nothing") {
        return;
    }
    let mut child = demo().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Who talks to whom") {
        assert!(reader.read_line(&mut text).unwrap() > 0, "{text}");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::SIGINT as i32), "{text}");
    assert!(!text.contains('✗'), "{text}");
    // What a thread of the demo made behind the last look is its guard's, which comes when the demo has gone.
    let place = place(&text);
    let gone = || match teardown::left(&place).as_slice() {
        [] => Ok(()),
        left => Err(left.join(", ")),
    };
    eventually(Duration::from_secs(10), gone).unwrap();
}
