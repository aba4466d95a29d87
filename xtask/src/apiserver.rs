//! The API server of the Kubernetes tests: `tests/kube/apiserver`, built by Go into `target/tools/kube`.
//!
//! A cold build takes minutes, so it is started in the background while cargo builds, and waited for before the first
//! test. Nothing is built if nothing changed: the module's files are compared with a fingerprint beside the program.
//!
//! Not here: starting it. The tests do (`tests/kube/src/apiserver.rs`), and need none where `KUBEBUILDER_ASSETS` or
//! `WEFT_TEST_KUBECONFIG` is set.

use crate::build_ebpf::Fingerprint;
use crate::paths::{Workspace, files_below};
use crate::process;
use crate::setup;
use crate::ui;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// What it says it is: `k8s.io/apiserver` of its `go.mod` is the library of this release.
const RELEASE: [&str; 2] = ["1", "36"];

/// A build that goes on, or that there was nothing to do for.
#[derive(Debug)]
pub(crate) struct Build {
    program: PathBuf,
    stamp: String,
    child: Option<Child>,
}

/// Starts the build, if there is something to build.
pub(crate) fn start(workspace: &Workspace) -> Result<Build> {
    let program = workspace.tools().join("kube/kube-apiserver");
    let module = workspace.root.join("tests/kube/apiserver");
    let given = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let stamp = fingerprint(&module)?;
    let built = fs::read_to_string(program.with_extension("stamp")).is_ok_and(|stored| stored == stamp);
    let elsewhere =
        ["KUBEBUILDER_ASSETS", "WEFT_TEST_KUBECONFIG", "WEFT_TEST_APISERVER"].into_iter().any(given);
    if elsewhere || (built && program.is_file()) {
        return Ok(Build { program, stamp, child: None });
    }
    let Some(go) = setup::find_go() else {
        bail!("no Go to build the API server with: run `cargo xtask setup`")
    };
    ui::heading("building the tests' API server with Go, in the background (minutes the first time)");
    fs::create_dir_all(program.parent().unwrap_or(&workspace.tools()))?;
    let log = fs::File::create(log(workspace)?)?;
    let [major, minor] = RELEASE;
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{major}.{minor}.0 -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    );
    let child = process::command(go)
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
        .arg(program.with_extension("new"))
        .arg(".")
        .current_dir(&module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .env("GOTOOLCHAIN", "auto")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start go")?;
    Ok(Build { program, stamp, child: Some(child) })
}

impl Build {
    /// Waits for its end.
    pub(crate) fn finish(self, workspace: &Workspace) -> Result<()> {
        let Some(child) = self.child else { return Ok(()) };
        process::finish(child, "the build of the API server").with_context(|| {
            let text = log(workspace).and_then(|log| Ok(fs::read_to_string(log)?)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("go build:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        })?;
        fs::rename(self.program.with_extension("new"), &self.program)?;
        fs::write(self.program.with_extension("stamp"), self.stamp)?;
        Ok(())
    }
}

fn log(workspace: &Workspace) -> Result<PathBuf> {
    Ok(workspace.scratch()?.join("go-build.log"))
}

fn fingerprint(module: &Path) -> Result<String> {
    let mut print = Fingerprint::new();
    for path in files_below(module)? {
        if path.extension().is_some_and(|end| end == "go" || end == "mod" || end == "sum") {
            print.add(path.file_name().unwrap_or_default().as_encoded_bytes());
            print.add(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    print.add(RELEASE.join(".").as_bytes());
    Ok(print.finish())
}
