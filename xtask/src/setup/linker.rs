//! bpf-linker: turns the compiler's LLVM bitcode into one BPF object with BTF. Its LLVM must be at least as new as the
//! compiler's, or it cannot read what the compiler wrote.
//!
//! Looked for in this order: `target/tools/bin` (what setup built), cargo's own `bin` directory, `PATH`. A released
//! static binary, which names no LLVM library, is taken at its word. Else it is built against the distribution's LLVM
//! development package, the oldest that will do.

use super::apt::Apt;
use super::{Missing, Mode, Toolchain};
use crate::paths::{self, Workspace, find_program};
use crate::process;
use crate::ui::{Found, step};
use anyhow::{Context as _, Result};
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The release that setup builds, and the LLVM versions that it can be built against.
const VERSION: &str = "0.13.0";
const LLVMS: [u32; 3] = [21, 22, 23];

/// An installed bpf-linker.
#[derive(Clone, Debug)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Major version of the LLVM library that it links, if it links one.
    llvm: Option<u32>,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.llvm {
            Some(llvm) => write!(f, "{}: LLVM {llvm}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

impl Linker {
    /// Can it read what a compiler with that LLVM writes?
    pub(crate) fn understands(&self, llvm: u32) -> bool {
        self.llvm.is_none_or(|own| own >= llvm)
    }

    /// Can it link what this toolchain compiles?
    pub(crate) fn suits(&self, toolchain: &Toolchain) -> bool {
        self.understands(toolchain.llvm)
    }
}

/// All that are there, in the order in which they are tried.
pub(crate) fn installed(workspace: &Workspace) -> Vec<Linker> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut places = vec![workspace.tools().join("bin/bpf-linker")];
    places.extend(cargo_home.map(|home| home.join("bin/bpf-linker")));
    places.extend(find_program("bpf-linker"));
    places.retain(|path| paths::is_executable(path));
    places.into_iter().filter_map(|path| probe(&path)).collect()
}

fn probe(path: &Path) -> Option<Linker> {
    // Also finds out whether it starts at all: its LLVM may have been uninstalled.
    process::output(process::command(path).arg("--version"))?;
    let llvm = linked_llvm(&fs::read(path).ok()?);
    Some(Linker { path: path.to_owned(), llvm })
}

/// The LLVM library that a program asks for: `libLLVM.so.22.1`, or the older `libLLVM-19.so`.
fn linked_llvm(program: &[u8]) -> Option<u32> {
    const STEM: &[u8] = b"libLLVM";
    program.windows(STEM.len()).enumerate().filter(|(_, window)| *window == STEM).find_map(|(at, _)| {
        let rest = &program[at + STEM.len()..];
        let rest = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
    })
}

/// LLVM versions to build it against that can read what `compiler` writes (the oldest will do, if that is unknown), in
/// the order of preference.
fn wanted(compiler: Option<u32>) -> impl Iterator<Item = u32> {
    LLVMS.into_iter().filter(move |llvm| *llvm >= compiler.unwrap_or(LLVMS[0]))
}

fn package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// Is there one that understands this LLVM, or could [`ensure`] build it?
pub(crate) fn obtainable(workspace: &Workspace, apt: &Apt, compiler: Option<u32>) -> bool {
    let understands = |linker: &Linker| compiler.is_none_or(|compiler| linker.understands(compiler));
    installed(workspace).iter().any(understands)
        || wanted(compiler).any(|llvm| prefix(llvm).is_some() || apt.has(&package(llvm)))
}

/// How a person gets one.
pub(crate) fn by_hand(workspace: &Workspace) -> String {
    format!(
        "put a bpf-linker {VERSION} binary (github.com/aya-rs/bpf-linker/releases) into {}, or install the \
         development package of LLVM {} or newer and run setup again",
        workspace.tools().join("bin").display(),
        LLVMS[0]
    )
}

/// Finds one that understands `compiler`, an LLVM version, or builds it.
pub(crate) fn ensure(
    workspace: &Workspace,
    apt: &Apt,
    compiler: Option<u32>,
    mode: Mode,
) -> Result<Option<Missing>> {
    let understands = |linker: &Linker| compiler.is_none_or(|compiler| linker.understands(compiler));
    if let Some(linker) = installed(workspace).into_iter().find(understands) {
        mode.found("bpf-linker", &linker.to_string());
        return Ok(None);
    }
    let here = wanted(compiler).find(|llvm| prefix(*llvm).is_some());
    let Some(llvm) = here.or_else(|| wanted(compiler).find(|llvm| apt.has(&package(*llvm)))) else {
        mode.missing("bpf-linker", apt.why_not());
        let what = format!("bpf-linker with LLVM {} or newer", compiler.unwrap_or(LLVMS[0]));
        return Ok(Some(Missing { what, remedy: by_hand(workspace) }));
    };
    if here.is_none() {
        apt.install("LLVM", &[package(llvm)])?;
    }
    step(
        Found::Install,
        "bpf-linker",
        &format!("cargo install bpf-linker {VERSION} against LLVM {llvm} (a minute or two)"),
    );
    if !mode.dry_run {
        build(workspace, llvm)?;
    }
    Ok(None)
}

/// Where that LLVM's development files are.
fn prefix(llvm: u32) -> Option<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    (prefix.join("lib/libLLVM.so").exists() && prefix.join("bin/llvm-config").exists()).then_some(prefix)
}

fn build(workspace: &Workspace, llvm: u32) -> Result<()> {
    let prefix =
        prefix(llvm).with_context(|| format!("LLVM {llvm} is installed, but not in /usr/lib/llvm-{llvm}"))?;
    let tools = workspace.tools();
    let mut command = process::cargo();
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--quiet", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env_remove("CARGO_TARGET_DIR")
        .current_dir("/");
    process::run(&mut command, "the build of bpf-linker")?;
    fs::remove_dir_all(tools.join("build")).context("cannot remove what the build of bpf-linker left")
}

#[cfg(test)]
mod tests;
