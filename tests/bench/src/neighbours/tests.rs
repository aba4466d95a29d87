#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use super::*;

#[test]
fn a_process_is_its_own_and_its_childrens_time() {
    let line = "42 (odd) name)) S 1 42 42 0 -1 4194560 0 0 0 0 10 20 30 40 20 0 1 0 777 0 0";
    let stat = parse(line).unwrap();
    assert_eq!((stat.start, stat.kernel, stat.time), (777, false, 100));
    let thread = parse("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 9 0 0 20 0 1 0 1 0 0").unwrap();
    assert!(thread.kernel);
    assert!(parse("nothing").is_none());
}

#[test]
fn work_of_somebody_else_is_seen() {
    let mut neighbours = Neighbours::of("/nowhere/at-all".into()).unwrap();
    let mut before = neighbours.time();
    let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let seen = lab::eventually(Duration::from_secs(20), || {
        let now = neighbours.time();
        // Who ends takes its time along until somebody asks after it.
        before = before.min(now);
        let used = now - before;
        if used >= 0.1 { Ok(()) } else { Err(format!("{used} s")) }
    });
    busy.kill().unwrap();
    busy.wait().unwrap();
    seen.unwrap();
}
