//! `cargo xtask gen`: writes what of the charts and documents is made from code, and with `--check` only says whether it is as it would be
//! written.
//!
//! ```text
//! crates/mesh-crd ──its program──► one template a kind ──► deploy/charts/mesh-crds/templates/PLURAL.GROUP.yaml
//! Cargo.toml's version ──────────────────────────────────► deploy/charts/*/Chart.yaml
//! crates/mesh-model ──its example errors───────────────────► docs/errors.md
//! deploy/dashboards/*.json, deploy/rules/*.yaml ─ copied ─► deploy/charts/mesh/{dashboards,rules}/
//! ```
//!
//! The definitions are templates of a chart of their own, and not in a chart's `crds/`: Helm installs what is there once and
//! never upgrades it. Being templates they would also go at `helm uninstall`, and every MeshConfig with them; so they are
//! annotated to be kept, unless the chart's value `keep` is false. Dashboards and rules are copied because Helm reads no file
//! outside of its chart, and a chart that is packaged has no repository around it.
//!
//! Invariant: files that nobody generates any more are removed, so that a definition which left the code leaves the chart.

use crate::paths::{Workspace, files_below};
use crate::process;
use crate::ui::{self, say};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

const CHARTS: &str = "deploy/charts";

/// Arguments of `gen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a file is not as it would be written
    #[arg(long)]
    check: bool,
}

/// `cargo xtask gen`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    process::watch_signals()?;
    if args.check {
        let stale = stale(workspace)?;
        for path in &stale {
            say!("{}  {path}", ui::red("stale"));
        }
        return Ok(if stale.is_empty() {
            say!("{}  generated files are as they should be", ui::green("ok   "));
            ExitCode::SUCCESS
        } else {
            say!("run `cargo xtask gen`");
            ExitCode::FAILURE
        });
    }
    let wanted = wanted(workspace)?;
    for path in unwanted(workspace, &wanted)? {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        say!("{}  {}", ui::yellow("removed"), path.display());
    }
    for (path, text) in wanted {
        let whole = workspace.root.join(&path);
        let same = fs::read_to_string(&whole).is_ok_and(|old| old == text);
        if !same {
            let directory = whole.parent().context("a file has a directory")?;
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            fs::write(&whole, text).with_context(|| format!("cannot write {}", whole.display()))?;
        }
        say!("{}  {}", if same { ui::green("same   ") } else { ui::yellow("written") }, path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Charts that do not have the workspace's version, or not its dashboards and rules, for `tidy`. (That their definitions are those of the types is a test of
/// `mesh-crd`, which has them at hand.)
pub(crate) fn stale_charts(workspace: &Workspace) -> Result<Vec<String>> {
    Ok(different(workspace, &charts(workspace)?))
}

fn different(workspace: &Workspace, wanted: &BTreeMap<PathBuf, String>) -> Vec<String> {
    wanted
        .iter()
        .filter(|(path, text)| {
            fs::read_to_string(workspace.root.join(path)).map_or(true, |old| old != **text)
        })
        .map(|(path, _)| path.display().to_string())
        .collect()
}

/// The generated files that are not as they would be written, relative to the workspace.
fn stale(workspace: &Workspace) -> Result<Vec<String>> {
    let wanted = wanted(workspace)?;
    let mut stale = different(workspace, &wanted);
    for path in unwanted(workspace, &wanted)? {
        stale.push(format!("{} (nothing generates it)", path.display()));
    }
    Ok(stale)
}

/// Definitions in the chart that no kind stands behind any more, and copies of what is gone.
fn unwanted(workspace: &Workspace, wanted: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    let known =
        |path: &PathBuf| path.strip_prefix(&workspace.root).is_ok_and(|path| wanted.contains_key(path));
    let mut found = Vec::new();
    for directory in ["mesh-crds/templates", "mesh/dashboards", "mesh/rules"] {
        let directory = workspace.root.join(CHARTS).join(directory);
        if directory.is_dir() {
            found.extend(files_below(&directory)?.into_iter().filter(|path| !known(path)));
        }
    }
    Ok(found)
}

/// Everything that is generated.
fn wanted(workspace: &Workspace) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = charts(workspace)?;
    for (name, text) in definitions(workspace)? {
        files.insert(Path::new(CHARTS).join("mesh-crds/templates").join(name), text);
    }
    files.insert("docs/errors.md".into(), errors(workspace)?);
    Ok(files)
}

/// The charts' own files, for which nothing has to be built.
fn charts(workspace: &Workspace) -> Result<BTreeMap<PathBuf, String>> {
    let version = version(workspace)?;
    let charts = Path::new(CHARTS);
    let mut files = copies(workspace)?;
    files.extend([
        (
            charts.join("mesh-crds/Chart.yaml"),
            chart(
                "mesh-crds",
                "The definitions of Weft's own objects; goes before the chart `mesh`",
                &version,
            ),
        ),
        (
            charts.join("mesh/Chart.yaml"),
            chart(
                "mesh",
                "Weft, a sidecarless service mesh, as an agent on every node and a controller",
                &version,
            ),
        ),
    ]);
    Ok(files)
}

/// The dashboards and rules that the chart carries: what is directly in their directories (tests of rules are below).
fn copies(workspace: &Workspace) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    for (kind, extension) in [("dashboards", "json"), ("rules", "yaml")] {
        let directory = workspace.root.join("deploy").join(kind);
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let name = path.file_name().context("a file has a name")?;
                files.insert(Path::new(CHARTS).join("mesh").join(kind).join(name), text);
            }
        }
    }
    Ok(files)
}

/// The index of errors. (That it is what the code says is a test of `mesh-model`, too.)
fn errors(workspace: &Workspace) -> Result<String> {
    let mut cargo = process::cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["run", "--quiet", "--release", "--locked", "--package", "mesh-model", "--example", "errors"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the example errors of mesh-model does not build or does not run");
    }
    String::from_utf8(output.stdout).context("the index of errors is not UTF-8")
}

/// File names and texts of the definitions' chart.
fn definitions(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let mut cargo = process::cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["run", "--quiet", "--release", "--locked", "--package", "mesh-crd"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = cargo.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("mesh-crd does not build or does not run");
    }
    serde_json::from_slice(&output.stdout).context("mesh-crd does not print JSON")
}

/// The chart's own file. One version for all: a chart goes with the programs of the same version.
fn chart(name: &str, about: &str, version: &str) -> String {
    format!(
        "# Written by `cargo xtask gen`; changes here are lost.\napiVersion: v2\nname: {name}\ndescription: \"{about}\"\n\
         type: application\nversion: {version}\nappVersion: \"{version}\"\n# Tokens name their node from 1.32 on.\n\
         kubeVersion: \">=1.32.0-0\"\n"
    )
}

/// The workspace's version.
pub(crate) fn version(workspace: &Workspace) -> Result<String> {
    let path = workspace.root.join("Cargo.toml");
    let manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.package]")
        .find_map(|line| line.strip_prefix("version = "))
        .map(|version| version.trim_matches('"').to_owned())
        .with_context(|| format!("{} names no version", path.display()))
}
