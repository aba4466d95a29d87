//! Where things are: the workspace, cargo's target directory, and what xtask keeps below it.
//!
//! ```text
//! target/ebpf/mesh.bpf.o   the kernel half, which the agent embeds     (build-ebpf)
//! target/ebpf-build/       cargo's own directory for it                (build-ebpf)
//! target/tools/            programs that setup built                   (setup)
//! target/tools/kube/       the tests' API server, kubectl, Helm        (setup, test)
//! target/xtask/            logs and the row files of tests             (setup, test)
//! target/release/          everything that runs
//! ```

use anyhow::{Context as _, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The places that every subcommand needs.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The directory of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, absolute; `CARGO_TARGET_DIR` moves it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this xtask was built from.
    pub(crate) fn find() -> Result<Self> {
        let xtask = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = xtask.parent().context("xtask is not inside a workspace")?.to_owned();
        if !root.join("mesh-common/Cargo.toml").is_file() {
            bail!("{} is not Weft's workspace; run `cargo xtask` inside it", root.display());
        }
        let target = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]
            .iter()
            .find_map(|name| env::var_os(name).filter(|value| !value.is_empty()))
            .map_or_else(|| root.join("target"), PathBuf::from);
        let target = if target.is_absolute() { target } else { env::current_dir()?.join(target) };
        Ok(Self { root, target })
    }

    /// The built kernel half.
    pub(crate) fn object(&self) -> PathBuf {
        self.target.join("ebpf/mesh.bpf.o")
    }

    /// A program of the release profile.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Where setup puts the programs that it builds itself.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Logs and row files; created when first asked for.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        let scratch = self.target.join("xtask");
        fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        Ok(scratch)
    }

    /// The oldest Rust that the workspace builds with, from `rust-version` in the root manifest.
    pub(crate) fn rust_floor(&self) -> Result<(u32, u32)> {
        let path = self.root.join("Cargo.toml");
        let manifest =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        manifest
            .lines()
            .find_map(|line| line.strip_prefix("rust-version"))
            .and_then(|rest| parse_version(rest.trim_start_matches([' ', '=', '"'])))
            .with_context(|| format!("{} names no rust-version", path.display()))
    }
}

/// `1.96.0+dfsg1` and the like: the first two numbers.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Finds a program in `PATH` and in the directories of administrators' programs, which an ordinary user's `PATH` lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Is it a file that somebody may execute?
pub(crate) fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Everything below `directory`, files only, in a stable order.
pub(crate) fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                queue.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
