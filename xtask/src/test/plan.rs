//! What to build, and the test programs that come out of it.

use super::groups::{GROUPS, Group};
use crate::lab::{PRODUCT, build_programs};
use crate::paths::Workspace;
use crate::process;
use crate::ui;
use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;

/// One built test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// The package that it tests.
    pub(super) package: String,
    /// `package`, or `package/target` for one of several.
    pub(super) title: String,
    pub(super) executable: PathBuf,
    /// The package's directory: tests are run there, as cargo does.
    pub(super) directory: PathBuf,
}

/// All that was built, and the packages of the groups.
#[derive(Debug, Default)]
pub(super) struct Programs {
    programs: Vec<Program>,
    /// Packages that belong to no other group.
    rest: Vec<String>,
    /// What did not compile, if something did not. The rest is run all the same.
    pub(super) broken: Option<String>,
}

impl Programs {
    /// A group's programs.
    pub(super) fn of(&self, group: &Group) -> Vec<&Program> {
        self.programs.iter().filter(|program| self.belongs(&program.package, group)).collect()
    }

    fn belongs(&self, package: &str, group: &Group) -> bool {
        if group.packages.is_empty() {
            self.rest.iter().any(|name| name == package)
        } else {
            group.packages.contains(&package)
        }
    }

    /// Packages that belong to no other group.
    pub(super) fn rest(&self) -> &[String] {
        &self.rest
    }
}

/// Builds what the groups need. With `everything` in one run of cargo over all packages, so that what they share is
/// built once, with one set of features.
pub(super) fn build(workspace: &Workspace, groups: &[&Group], everything: bool) -> Result<Programs> {
    if groups.is_empty() {
        return Ok(Programs::default());
    }
    let rest = rest(workspace)?;
    let mut packages: Vec<&str> = Vec::new();
    for group in groups {
        if group.packages.is_empty() {
            packages.extend(rest.iter().map(String::as_str));
        } else {
            packages.extend(group.packages);
        }
    }
    let privileged = groups.iter().any(|group| group.privileged);
    if privileged && !everything {
        build_programs(workspace, &PRODUCT)?;
    }
    ui::heading(&format!("building the tests of {}", packages.join(", ")));
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--release", "--locked", "--tests", "--keep-going"]);
    cargo.arg("--message-format=json-render-diagnostics");
    if everything && privileged {
        cargo.arg("--bins");
    }
    for package in &packages {
        cargo.args(["--package", package]);
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let reader = thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.filter_map(|line| parse_artifact(&line)).collect::<Vec<Program>>()
    });
    let built = process::finish(child, "the build of the tests");
    let mut programs = reader.join().map_err(|_| anyhow!("cannot read what cargo says"))?;
    programs.sort_by(|a, b| a.title.cmp(&b.title));
    programs.dedup();
    if process::interrupted().is_some() {
        bail!("interrupted");
    }
    Ok(Programs {
        programs,
        rest,
        broken: built.err().map(|error| format!("{error}; the compiler says why above")),
    })
}

/// The default members that no group names.
fn rest(workspace: &Workspace) -> Result<Vec<String>> {
    let taken: Vec<&str> = GROUPS.iter().flat_map(|group| group.packages).copied().collect();
    Ok(crate::tidy::metadata(workspace)?
        .into_iter()
        .filter(|package| package.default_member && !taken.contains(&package.name.as_str()))
        .map(|package| package.name)
        .collect())
}

/// A test program, if that is what cargo's message tells of.
fn parse_artifact(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let executable = PathBuf::from(message["executable"].as_str()?);
    let directory = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let package = package_name(message["package_id"].as_str()?)?;
    let same = target.replace('_', "-") == package.replace('_', "-");
    let title = if kind == "lib" || same { package.clone() } else { format!("{package}/{target}") };
    Some(Program { package, title, executable, directory })
}

/// `path+file:///…/lab#0.1.0` and `path+file:///…/tests/ebpf#ebpf-tests@0.1.0`.
fn package_name(id: &str) -> Option<String> {
    let (path, fragment) = id.split_once('#')?;
    let name = match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next()?,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests;
