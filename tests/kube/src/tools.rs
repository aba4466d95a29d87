//! The programs that the suite runs beside the mesh: kubectl, Helm, and the API server that the xtask builds.
//!
//! Each is looked for where an environment variable says, then in `target/tools` (where `cargo xtask setup` puts what it
//! fetches), then on `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The API server of `apiserver/`: `WEFT_TEST_APISERVER`, or what the xtask built.
pub fn api_server() -> Result<PathBuf> {
    find("WEFT_TEST_APISERVER", "kube-apiserver", false)
}

/// kubectl: `WEFT_KUBECTL`, or any.
pub fn kubectl() -> Result<PathBuf> {
    find("WEFT_KUBECTL", "kubectl", true)
}

/// Helm 4: `WEFT_HELM`, or any.
pub fn helm() -> Result<PathBuf> {
    find("WEFT_HELM", "helm", true)
}

/// The root of the workspace, for its charts and samples.
pub fn workspace() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let own = own.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    own.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
}

fn find(variable: &str, name: &str, on_path: bool) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(path.into());
    }
    // target/release/deps/TEST → target/tools/kube
    let built = std::env::current_exe().ok();
    let built =
        built.iter().flat_map(|path| path.ancestors()).map(|above| above.join("tools/kube").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed: Vec<PathBuf> =
        std::env::split_paths(&path).map(|directory| directory.join(name)).collect();
    let installed = installed.into_iter().filter(|_| on_path);
    match built.chain(installed).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is not there: run `cargo xtask setup` ({variable} names another)"),
    }
}

/// Runs one of them with a kubeconfig and with no configuration of the person who runs the tests.
pub(crate) fn run(program: PathBuf, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
    let home = kubeconfig.with_file_name("home");
    std::fs::create_dir_all(&home)?;
    let output = Command::new(&program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", &home)
        .env_remove("HELM_NAMESPACE")
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .current_dir(workspace())
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bail!("{name} {}: {}: {out}{said}", arguments.join(" "), output.status);
    }
    Ok(out)
}
