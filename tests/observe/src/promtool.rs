//! `promtool`: what Prometheus itself says of rules, their tests, and an exposition.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Are the rules well formed? Returns what promtool says of them.
pub fn check_rules(files: &[PathBuf]) -> Result<String> {
    run(&["check", "rules"], files, None, None)
}

/// Do the rules do what their tests say? Tests name their rules relative to themselves.
pub fn test_rules(file: &Path) -> Result<String> {
    let directory = file.parent().context("a file has a directory")?;
    let name = PathBuf::from(file.file_name().context("a file has a name")?);
    run(&["test", "rules"], &[name], Some(directory), None)
}

/// Does an exposition in the classic text form keep to Prometheus' conventions?
pub fn check_metrics(exposition: &str) -> Result<String> {
    run(&["check", "metrics"], &[], None, Some(exposition))
}

fn run(verb: &[&str], files: &[PathBuf], directory: Option<&Path>, input: Option<&str>) -> Result<String> {
    let program = crate::program("promtool")
        .context("the program promtool is not installed: run `cargo xtask setup`")?;
    let mut command = Command::new(program);
    command.args(verb).args(files).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().context("start promtool")?;
    let mut stdin = child.stdin.take().context("promtool has no input")?;
    let output = std::thread::scope(|scope| {
        // It may complain before it has read all; then it ends, and what it says counts.
        scope.spawn(move || stdin.write_all(input.unwrap_or_default().as_bytes()));
        child.wait_with_output()
    })?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("promtool {}: {}\n{said}", verb.join(" "), output.status);
    }
    Ok(said)
}
