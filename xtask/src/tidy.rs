//! `cargo xtask tidy`: the house rules that no compiler and no linter checks. Reads files only; takes about a second.
//!
//! ```text
//! sources   length of files, module docs, inherited lints, names of programs and maps, paths of somebody's machine
//! arrows    who may depend on whom: directly by layer, and in all for the three privileges
//! docs      links lead somewhere, the README names its commands, every dependency is accounted for
//! ```
//!
//! Each rule counts as one test of the `unit` group. An exception is a row of a table beside the rule, with its reason.

mod arrows;
mod docs;
mod sources;

use crate::gen_charts;
use crate::paths::{Workspace, files_below};
use crate::process;
use crate::ui::{self, say};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// A rule in words, and where it is broken.
pub(crate) type Verdict = (&'static str, Vec<String>);

/// `cargo xtask tidy`.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut ok = true;
    for (rule, violations) in check(workspace)? {
        let word = if violations.is_empty() { ui::green("ok  ") } else { ui::red("fail") };
        say!("{word}  {rule}");
        violations.iter().for_each(|violation| say!("          {violation}"));
        ok &= violations.is_empty();
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every rule with its violations.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Verdict>> {
    let files = Files::of(workspace)?;
    let packages = metadata(workspace)?;
    let mut verdicts = sources::check(&files, &packages)?;
    verdicts.extend(arrows::check(workspace, &packages)?);
    verdicts.extend(docs::check(&files)?);
    verdicts.push((
        "charts have the workspace's version, dashboards and rules",
        gen_charts::stale_charts(workspace)?,
    ));
    Ok(verdicts)
}

/// The repository's text files, relative to its root.
pub(crate) struct Files {
    root: PathBuf,
    /// Path and content.
    texts: Vec<(String, String)>,
}

impl Files {
    /// What git tracks or would track; outside a git repository, what is not hidden and not built.
    fn of(workspace: &Workspace) -> Result<Self> {
        let root = &workspace.root;
        let mut git = process::command("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let paths: Vec<PathBuf> = match process::output(&mut git) {
            Some(list) => {
                list.split('\0').filter(|path| !path.is_empty()).map(|path| root.join(path)).collect()
            }
            None => files_below(root)?
                .into_iter()
                .filter(|path| !path.starts_with(&workspace.target) && !path.starts_with(root.join("target")))
                .filter(|path| !path.starts_with(root.join(".git")))
                .collect(),
        };
        let texts = paths.into_iter().filter_map(|path| {
            // Deleted but still tracked, or no text: neither is any of our business.
            let text = std::fs::read_to_string(&path).ok()?;
            Some((path.strip_prefix(root).ok()?.to_str()?.to_owned(), text))
        });
        Ok(Self { root: root.clone(), texts: texts.collect() })
    }

    /// Those whose name ends so.
    fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> + 'a {
        let texts = self.texts.iter().filter(move |(path, _)| path.ends_with(end));
        texts.map(|(path, text)| (path.as_str(), text.as_str()))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.texts.iter().find(|(name, _)| name == path).map(|(_, text)| text.as_str())
    }
}

/// A package of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Is it built without naming it?
    pub(crate) default_member: bool,
    /// Has it a library?
    pub(crate) library: bool,
    /// Names of the packages that it depends on, for whatever purpose.
    pub(crate) dependencies: Vec<String>,
}

/// The workspace's packages, as cargo sees them.
pub(crate) fn metadata(workspace: &Workspace) -> Result<Vec<Package>> {
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root).args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = process::output(&mut cargo).context("`cargo metadata` fails; run it to see why")?;
    let metadata: Value = serde_json::from_str(&text).context("`cargo metadata` does not print JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let default_members = list(&metadata["workspace_default_members"]);
    let packages = list(&metadata["packages"]).into_iter().map(|package| {
        let manifest = PathBuf::from(package["manifest_path"].as_str()?);
        let is_library =
            |target: &Value| list(&target["kind"]).iter().any(|kind| kind == "lib" || kind == "proc-macro");
        let dependencies = list(&package["dependencies"]);
        Some(Package {
            name: package["name"].as_str()?.to_owned(),
            directory: manifest.parent()?.to_owned(),
            default_member: default_members.contains(&package["id"]),
            library: list(&package["targets"]).iter().any(is_library),
            dependencies: dependencies
                .iter()
                .filter_map(|one| one["name"].as_str().map(str::to_owned))
                .collect(),
        })
    });
    packages.collect::<Option<Vec<_>>>().context("`cargo metadata` lacks a field")
}
