//! Rules about source files.

use super::{Files, Package, Verdict};
use anyhow::Result;

/// Longer than this, and a file holds more than one thing.
const LINES: usize = 500;
/// Files that may be longer, with the reason.
const LONG: [(&str, &str); 0] = [];
/// Within how many lines a module has to say what it is.
const DOC_WITHIN: usize = 15;
/// The kernel cuts names of programs and maps after this.
const NAME_BYTES: usize = 15;

pub(super) fn check(files: &Files, packages: &[Package]) -> Result<Vec<Verdict>> {
    Ok(vec![
        ("no source file has over 500 lines", long(files)),
        ("every module says what it is", undocumented(files)),
        ("every crate inherits the workspace's lints", own_lints(files, packages)),
        ("versions of dependencies are in the root manifest only", own_versions(files, packages)),
        ("names of BPF programs and maps are at most 15 bytes and begin with mesh_", bpf_names(files)),
        ("no file names a path of somebody's machine", machine_paths(files)),
    ])
}

fn rust(files: &Files) -> impl Iterator<Item = (&str, &str)> {
    files.ending(".rs").filter(|(path, _)| !path.contains("/generated/"))
}

fn long(files: &Files) -> Vec<String> {
    let allowed = |path: &str| LONG.iter().any(|(long, _)| *long == path);
    rust(files)
        .filter_map(|(path, text)| {
            let lines = text.lines().count();
            (lines > LINES && !allowed(path)).then(|| format!("{path}: {lines} lines"))
        })
        .collect()
}

/// Tests in a sibling file say what they are by their names.
fn undocumented(files: &Files) -> Vec<String> {
    rust(files)
        .filter(|(path, _)| !path.ends_with("/tests.rs") && !path.ends_with("build.rs"))
        .filter(|(_, text)| !text.lines().take(DOC_WITHIN).any(|line| line.starts_with("//!")))
        .map(|(path, _)| format!("{path}: no `//!` in the first {DOC_WITHIN} lines"))
        .collect()
}

fn own_lints(files: &Files, packages: &[Package]) -> Vec<String> {
    let inherits = |manifest: &str| {
        let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
        lines
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .is_some_and(|line| line.replace(' ', "") == "workspace=true")
    };
    manifests(files, packages)
        .filter(|(_, manifest)| !inherits(manifest))
        .map(|(path, _)| format!("{path}: `[lints]` is not `workspace = true`"))
        .collect()
}

fn own_versions(files: &Files, packages: &[Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, manifest) in manifests(files, packages) {
        let mut among_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                among_dependencies = line.contains("dependencies");
            }
            let entry = line.starts_with(|c: char| c.is_alphabetic()) && line.contains('=');
            if among_dependencies && entry && !line.contains("workspace = true") {
                wrong.push(format!("{path}: {line}"));
            }
        }
    }
    wrong
}

/// The members' manifests.
fn manifests<'a>(files: &'a Files, packages: &'a [Package]) -> impl Iterator<Item = (String, &'a str)> {
    packages.iter().filter_map(|package| {
        let path = package.directory.join("Cargo.toml");
        let path = path.strip_prefix(&files.root).ok()?.to_str()?;
        Some((path.to_owned(), files.text(path)?))
    })
}

fn bpf_names(files: &Files) -> Vec<String> {
    let path = "mesh-common/src/names.rs";
    let Some(text) = files.text(path) else { return vec![format!("{path} is not there")] };
    let names: Vec<&str> = bpf_modules(text).filter_map(string_constant).collect();
    let mut wrong: Vec<String> = names
        .iter()
        .filter(|name| name.len() > NAME_BYTES || !name.starts_with("mesh_"))
        .map(|name| format!("{path}: {name}"))
        .collect();
    if names.is_empty() {
        wrong.push(format!("{path}: no name found in its modules `programs` and `maps`"));
    }
    wrong
}

/// The lines of the modules `programs` and `maps`.
fn bpf_modules(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        if let Some(module) = line.strip_prefix("pub mod ") {
            inside = module.starts_with("programs") || module.starts_with("maps");
        }
        inside
    })
}

/// `pub const NAME: &str = "value";`
fn string_constant(line: &str) -> Option<&str> {
    let value = line.trim_start().strip_prefix("pub const ")?.split_once(": &str = \"")?.1;
    value.split('"').next()
}

/// Paths that exist on one machine only, and what says that one is not of that kind: a placeholder after it.
fn machine_paths(files: &Files) -> Vec<String> {
    // Put together, so that this file is not found itself.
    let needles =
        [["/ho", "me/"], ["/Us", "ers/"], ["/ro", "ot/"], ["/wo", "rk/"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for (path, text) in &files.texts {
        for (number, line) in text.lines().enumerate() {
            if needles.iter().any(|needle| names_path(line, needle)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

/// Does the line name something below the directory, as an absolute path?
fn names_path(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(at, _)| {
        let begins = !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}/*".contains(c));
        let goes_on = line[at + directory.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '.');
        begins && goes_on
    })
}

#[cfg(test)]
mod tests;
