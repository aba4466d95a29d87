//! What the `unit` group has beside test programs: doc tests, formatting, house rules.

use super::count::{Tally, tally};
use crate::paths::{Workspace, files_below};
use crate::process;
use crate::tidy;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Command;

/// House rules and formatting, each rule counting as one.
pub(super) fn checks(workspace: &Workspace) -> Result<Tally> {
    let mut all = Tally::default();
    for (rule, violations) in tidy::check(workspace)? {
        all.merge(if violations.is_empty() {
            Tally::pass()
        } else {
            Tally::failure(&format!("tidy: {rule}"), &format!("\n    {}", violations.join("\n    ")))
        });
    }
    all.merge(formatting(workspace)?);
    Ok(all)
}

fn formatting(workspace: &Workspace) -> Result<Tally> {
    let installed = process::output(process::cargo().args(["fmt", "--version"])).is_some();
    if !installed {
        return Ok(Tally::skip("formatting", "cargo fmt is not installed (rustup component add rustfmt)"));
    }
    let output = process::cargo()
        .current_dir(&workspace.root)
        .args(["fmt", "--all", "--", "--check", "--files-with-diff"])
        .output()?;
    if output.status.success() {
        return Ok(Tally::pass());
    }
    let root = format!("{}/", workspace.root.display());
    let files = String::from_utf8_lossy(&output.stdout).trim().replace(&root, "").replace('\n', ", ");
    let errors = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(Tally::failure("formatting", &format!("run `cargo fmt --all`: {files} {errors}")))
}

/// The command that runs the doc tests of these packages; none if they have none, as building for them takes a while.
pub(super) fn doc_tests(workspace: &Workspace, packages: &[String]) -> Result<Option<Command>> {
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root).args(["test", "--release", "--locked", "--doc", "--no-fail-fast"]);
    let mut any = false;
    for package in tidy::metadata(workspace)? {
        if package.library && packages.contains(&package.name) && has_examples(&package.directory)? {
            cargo.args(["--package", &package.name]);
            any = true;
        }
    }
    Ok(any.then_some(cargo))
}

fn has_examples(package: &Path) -> Result<bool> {
    for path in files_below(&package.join("src"))? {
        if path.extension().is_some_and(|kind| kind == "rs") && has_example(&fs::read_to_string(&path)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A fenced block in a doc comment that rustdoc would run.
fn has_example(source: &str) -> bool {
    let mut inside = false;
    for line in source.lines().map(str::trim_start) {
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            inside = false;
            continue;
        };
        if let Some(language) = doc.trim().strip_prefix("```") {
            let runs = !inside && (language.is_empty() || language.starts_with("rust"));
            if runs || !inside && ["no_run", "should_panic", "compile_fail"].contains(&language) {
                return true;
            }
            inside = !inside;
        }
    }
    false
}

/// The tally of what `cargo test --doc` printed.
pub(super) fn doc_tally(output: &str, end: Option<&str>) -> Tally {
    tally("doc tests", output, &[], end)
}

#[cfg(test)]
mod tests;
