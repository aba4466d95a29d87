//! Compilers that can build the kernel half: `-Z build-std=core` needs the standard library's source beside the
//! compiler, and the unstable flag either a nightly or `RUSTC_BOOTSTRAP=1`.
//!
//! Order of preference: rustup's nightly, the rustup toolchain that is running us, `/usr/bin/rustc` and its versioned
//! sisters (`rustc-1.91`). The kernel half is `no_std` and uses no unstable language feature, so all of them give the
//! same object but for the compiler's version.

use crate::paths::{self, Workspace, find_program};
use crate::process;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A compiler with its cargo.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    source: Source,
    /// First two numbers of the version.
    pub(crate) version: (u32, u32),
    /// Major version of LLVM, which the linker has to be able to read.
    pub(crate) llvm: u32,
    /// Is the library's source there?
    pub(crate) has_source: bool,
    /// All that `rustc -vV` says: what an up-to-date check compares.
    pub(crate) identity: String,
}

#[derive(Clone, Debug)]
enum Source {
    /// By its name in rustup.
    Rustup(String),
    /// Programs of the distribution.
    Distribution { rustc: PathBuf, cargo: PathBuf },
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        match &self.source {
            Source::Rustup(name) => write!(f, "rustup {name}: Rust {major}.{minor}, LLVM {}", self.llvm),
            Source::Distribution { rustc, .. } => {
                write!(f, "{}: Rust {major}.{minor}, LLVM {}", rustc.display(), self.llvm)
            }
        }
    }
}

impl Toolchain {
    /// Its name in rustup, if it is rustup's.
    pub(crate) fn rustup_name(&self) -> Option<&str> {
        match &self.source {
            Source::Rustup(name) => Some(name),
            Source::Distribution { .. } => None,
        }
    }

    /// A cargo of this toolchain, free of what another one left in the environment.
    pub(crate) fn cargo(&self) -> std::process::Command {
        let mut command = match &self.source {
            Source::Rustup(name) => {
                let mut command = process::command("rustup");
                command.args(["run", name, "cargo"]);
                command
            }
            Source::Distribution { cargo, .. } => process::command(cargo),
        };
        let leftovers =
            ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTDOC"];
        for name in leftovers {
            command.env_remove(name);
        }
        match &self.source {
            Source::Rustup(_) => command.env_remove("RUSTC"),
            Source::Distribution { rustc, .. } => command.env("RUSTC", rustc),
        };
        command.env("RUSTC_BOOTSTRAP", "1").env_remove("CARGO_BUILD_TARGET");
        command
    }
}

/// Every toolchain at or above `floor`, in order of preference, with and without source.
pub(crate) fn installed(floor: (u32, u32)) -> Vec<Toolchain> {
    let sources = rustup_toolchains().into_iter().map(Source::Rustup).chain(distribution());
    sources.filter_map(probe).filter(|toolchain| toolchain.version >= floor).collect()
}

/// rustup's nightly and the toolchain that runs us; only what is installed, as naming another would make rustup fetch it.
fn rustup_toolchains() -> Vec<String> {
    if find_program("rustup").is_none() {
        return Vec::new();
    }
    let list = process::output(process::command("rustup").args(["toolchain", "list"])).unwrap_or_default();
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let active = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    let nightly = names.iter().filter(|name| **name == "nightly" || name.starts_with("nightly-x86_64"));
    let nightly = nightly.chain(names.iter().filter(|name| name.starts_with("nightly-aarch64")));
    nightly.chain(names.iter().filter(|name| **name == active)).map(|name| (*name).to_owned()).collect()
}

fn distribution() -> Vec<Source> {
    let mut found = Vec::new();
    for directory in ["/usr/bin", "/usr/local/bin"].map(Path::new) {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name == "rustc" || name.starts_with("rustc-1."))
            .collect();
        names.sort();
        for name in names {
            let cargo = directory.join(name.replacen("rustc", "cargo", 1));
            let rustc = directory.join(name);
            if paths::is_executable(&cargo) && !is_rustup_proxy(&rustc) {
                found.push(Source::Distribution { rustc, cargo });
            }
        }
    }
    found
}

/// rustup's `rustc` is a link to rustup itself; distributions ship that too.
fn is_rustup_proxy(rustc: &Path) -> bool {
    rustc.canonicalize().is_ok_and(|real| real.file_name().is_some_and(|name| name == "rustup"))
}

fn probe(source: Source) -> Option<Toolchain> {
    let rustc = || match &source {
        Source::Rustup(name) => {
            let mut command = process::command("rustup");
            command.args(["run", name, "rustc"]);
            command
        }
        Source::Distribution { rustc, .. } => process::command(rustc),
    };
    let identity = process::output(rustc().arg("-vV"))?;
    let sysroot = process::output(rustc().args(["--print", "sysroot"]))?;
    let (version, llvm) = parse_identity(&identity)?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let has_source = library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file();
    Some(Toolchain { source, version, llvm, has_source, identity })
}

/// Version and LLVM's major version out of `rustc -vV`.
fn parse_identity(identity: &str) -> Option<((u32, u32), u32)> {
    let field = |name: &str| identity.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = paths::parse_version(field("release:")?)?;
    let llvm = paths::parse_version(field("LLVM version:")?)?.0;
    Some((version, llvm))
}

/// Asks rustup for the library's source; a network that is not there must not hold setup up for long.
pub(crate) fn add_source(workspace: &Workspace, name: &str) -> bool {
    let Ok(scratch) = workspace.scratch() else { return false };
    let mut command = process::command("rustup");
    command.args(["component", "add", "rust-src", "--toolchain", name]);
    process::run_logged(&mut command, "rustup", &scratch.join("rustup.log"), Duration::from_secs(30)).is_ok()
}

#[cfg(test)]
mod tests;
