//! What a program of the mesh says of something wrong: exit code and words.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Output, eventually};

/// Fails unless the program ended with this code, in one complaint of at most a few lines that has all these words.
pub fn ensure_complaint(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = output.errors();
    ensure!(output.status.code() == Some(code), "{} instead of {code}: {said}", output.status);
    let complaint = said.trim();
    ensure!(!complaint.is_empty(), "it says nothing");
    ensure!(!complaint.contains("panicked") && !complaint.contains("RUST_BACKTRACE"), "{complaint}");
    for word in words {
        ensure!(complaint.contains(word), "no {word:?} in {complaint:?}");
    }
    let own = complaint.lines().find(|line| line.starts_with("mesh-") || line.starts_with("error: "));
    Ok(own.or(complaint.lines().next()).unwrap_or_default().to_owned())
}

/// Waits until a log has a line with all these words, and returns it.
pub fn await_line(log: &Path, words: &[&str]) -> Result<String> {
    eventually(Duration::from_secs(10), || {
        let text = std::fs::read_to_string(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let found = text.lines().rev().find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).ok_or_else(|| format!("no line with {words:?} in {}", log.display()))
    })
}
