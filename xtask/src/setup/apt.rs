//! `apt-get`: what it has, and installing from it.
//!
//! Invariants: as root only; the lists are refreshed once, and only when something is to be installed; no service is
//! started by an installation (a temporary `policy-rc.d`, unless the machine has one), no package removed.

use super::Mode;
use crate::paths::{Workspace, find_program, parse_version};
use crate::process;
use crate::ui::{Found, say, step};
use anyhow::{Context as _, Result};
use std::cell::OnceCell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Asked by maintainer scripts before they start a service; 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The package manager of Debian and its children.
#[derive(Debug)]
pub(crate) struct Apt {
    scratch: Option<PathBuf>,
    root: bool,
    there: bool,
    dry_run: bool,
    refreshed: OnceCell<()>,
}

/// Packages that together are a toolchain with the library's source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) packages: Vec<String>,
    /// LLVM of its compiler, where the package says so.
    pub(crate) llvm: Option<u32>,
}

impl Apt {
    pub(crate) fn new(workspace: &Workspace, mode: Mode) -> Self {
        Self {
            scratch: workspace.scratch().ok(),
            root: nix::unistd::geteuid().is_root(),
            there: find_program("apt-get").is_some(),
            dry_run: mode.dry_run,
            refreshed: OnceCell::new(),
        }
    }

    /// Can something be installed (or, in a dry run, could it)?
    pub(crate) fn usable(&self) -> bool {
        self.there && (self.root || self.dry_run)
    }

    /// Why [`Apt::usable`] or [`Apt::has`] says no.
    pub(crate) fn why_not(&self) -> &'static str {
        match (self.there, self.usable()) {
            (false, _) => "there is no apt-get here to install it with",
            (true, false) => "installing it needs root",
            (true, true) => "no package of this distribution provides it",
        }
    }

    /// Refreshes the lists, once. That some archive does not answer need not matter for what is wanted.
    fn refresh(&self) {
        if self.dry_run || !self.usable() {
            return;
        }
        self.refreshed.get_or_init(|| {
            step(Found::Install, "package lists", "apt-get update");
            let mut command = process::command("apt-get");
            command.args(["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive");
            if let Err(error) = self.logged(&mut command, "apt-get update", 300) {
                say!("         {error:#}\n         going on with the lists that are there");
            }
        });
    }

    fn logged(&self, command: &mut std::process::Command, what: &str, seconds: u64) -> Result<()> {
        let scratch = self.scratch.as_ref().context("no directory for logs below the target directory")?;
        let log = scratch.join(format!("{}.log", what.replace(' ', "-")));
        process::run_logged(command, what, &log, Duration::from_secs(seconds))
    }

    /// Is there such a package to install?
    pub(crate) fn has(&self, package: &str) -> bool {
        self.unlisted() || self.candidate(package).is_some()
    }

    /// In a dry run on a machine without package lists (a fresh container), the usual names have to do.
    fn unlisted(&self) -> bool {
        let lists = || fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
        self.dry_run
            && self.there
            && !lists().any(|list| list.file_name().to_string_lossy().contains("_Packages"))
    }

    /// The version of a package that would be installed.
    fn candidate(&self, package: &str) -> Option<String> {
        if !self.usable() {
            return None;
        }
        self.refresh();
        let policy = process::output(process::command("apt-cache").args(["policy", package]))?;
        parse_candidate(&policy)
    }

    /// The packages of a toolchain at or above `floor`, with the library's source.
    pub(crate) fn toolchain(&self, floor: (u32, u32)) -> Result<Option<Set>> {
        if !self.usable() {
            return Ok(None);
        }
        self.refresh();
        let names = process::output(process::command("apt-cache").args(["pkgnames", "rustc"]));
        for set in candidate_sets(&names.unwrap_or_default()) {
            let new_enough = |package: &str| {
                self.unlisted()
                    || self.candidate(package).and_then(|version| parse_version(&version)) >= Some(floor)
            };
            if set.iter().all(|package| new_enough(package)) {
                let library = set[0].replacen("rustc", "libstd-rust", 1);
                let llvm = self.llvm_of(&[&set[0], &format!("{library}-dev"), &library]);
                return Ok(Some(Set { packages: set, llvm }));
            }
        }
        Ok(None)
    }

    /// The LLVM library that one of the packages, or what they depend on directly, is linked with.
    fn llvm_of(&self, packages: &[&str]) -> Option<u32> {
        let depends = |package: &str| {
            process::output(process::command("apt-cache").args(["depends", "--important", package]))
                .unwrap_or_default()
        };
        packages.iter().find_map(|package| {
            let direct = depends(package);
            parse_llvm(&direct).or_else(|| {
                let next = direct.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
                next.filter(|name| name.starts_with("libstd-rust"))
                    .find_map(|name| parse_llvm(&depends(name)))
            })
        })
    }

    /// Installs, or in a dry run says so.
    pub(crate) fn install(&self, what: &str, packages: &[String]) -> Result<()> {
        step(Found::Install, what, &format!("apt-get install {}", packages.join(" ")));
        if self.dry_run {
            return Ok(());
        }
        self.refresh();
        let _no_services = Policy::forbid(Path::new(POLICY))?;
        let mut command = process::command("apt-get");
        command
            .args(["install", "-q", "-y", "--no-install-recommends", "--no-remove"])
            .args(["-o", "Dpkg::Options::=--force-confold"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1");
        self.logged(&mut command, "apt-get install", 1800)
    }
}

/// Which packages to ask for, best first: Debian's compiler for web browsers (kept recent in every release), Ubuntu's
/// versioned ones from the newest, the plain one.
fn candidate_sets(names: &str) -> Vec<Vec<String>> {
    let mut versioned: Vec<u32> =
        names.lines().filter_map(|name| name.strip_prefix("rustc-1.")?.parse().ok()).collect();
    versioned.sort_unstable();
    let mut sets = vec![["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned).to_vec()];
    for minor in versioned.into_iter().rev() {
        sets.push(vec![
            format!("rustc-1.{minor}"),
            format!("cargo-1.{minor}"),
            format!("rust-1.{minor}-src"),
        ]);
    }
    sets.push(["rustc", "cargo", "rust-src"].map(str::to_owned).to_vec());
    sets
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn parse_llvm(depends: &str) -> Option<u32> {
    let library = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: libllvm"))?;
    let digits: String = library.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Keeps maintainer scripts from starting services for as long as it lives.
struct Policy<'a> {
    made: Option<&'a Path>,
}

impl<'a> Policy<'a> {
    /// Writes the policy, unless there is one, which is then the machine's own decision.
    fn forbid(path: &'a Path) -> Result<Self> {
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                let made = Self { made: Some(path) };
                file.write_all(b"#!/bin/sh\n# Weft's setup is installing test programs; none is to be started.\nexit 101\n")
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(made)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { made: None }),
            Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.made
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("cannot remove {}: {error}; remove it by hand", path.display());
        }
    }
}

#[cfg(test)]
mod tests;
