#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;

use super::*;

#[test]
fn lines_are_counted_whoever_writes_them_and_however_often_the_pipe_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let lines = Lines::read(&directory.path().join("pipe")).unwrap();
    for text in ["one\ntwo\nthr", "ee\n"] {
        OpenOptions::new().write(true).open(lines.path()).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let counted = lab::eventually(Duration::from_secs(5), || match lines.count() {
        3 => Ok(()),
        other => Err(format!("{other} lines")),
    });
    counted.unwrap();
}
