//! Where the programs of this workspace are: beside the test executable, in the profile it was built with.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Finds one of the workspace's binaries (`mesh-agent`, `weft-lab-peer` …): in `WEFT_BIN_DIR` if that is set, else in the
/// directory of the running executable or the one above it (tests run from `deps/`).
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut searched = Vec::new();
    for directory in directories() {
        let path = directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        searched.push(directory.display().to_string());
    }
    bail!(
        "{name} is not in {}: run `cargo xtask test`, or `cargo build --release --workspace` first \
         (WEFT_BIN_DIR names another directory)",
        searched.join(" or ")
    )
}

fn directories() -> Vec<PathBuf> {
    if let Some(directory) = std::env::var_os("WEFT_BIN_DIR") {
        return vec![directory.into()];
    }
    let Ok(executable) = std::env::current_exe() else { return Vec::new() };
    let own = executable.parent();
    own.into_iter().chain(own.and_then(Path::parent)).map(Path::to_path_buf).collect()
}

/// Finds a program of the system as a shell would, in the usual directories also where `PATH` lacks them.
pub(crate) fn system(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    path.split(':').chain(usual).map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}
