//! `cargo xtask setup`: finds what building and testing need, and installs what is missing.
//!
//! ```text
//! Build    C compiler (rustls' cryptography)   eBPF toolchain + bpf-linker, which must suit each other
//! Test     real programs that the tests, the demo and the benches run
//! Observe  Prometheus with promtool: for the tests of metrics, dashboards and rules
//! Kube     Go, Helm and kubectl, containerd and runc: for the tests against the Kubernetes API
//! Kernel   cgroup2, bpffs, BTF, privileges
//! ```
//!
//! Everything is recognised by the program that does the work, never by a package's name, so that any distribution will
//! do where the programs are there. Installing is by `apt-get` as root; without either, setup prints the commands and
//! fails. No service is started and no package removed. The second time there is nothing to do, and that takes a
//! fraction of a second.
//!
//! Not here: a protobuf compiler. `mesh-xds` compiles its messages with `protox`, which is a crate.

mod apt;
pub(crate) mod kernel;
mod kube;
mod linker;
mod programs;
mod toolchain;

pub(crate) use kube::find_go;
pub(crate) use linker::Linker;
pub(crate) use toolchain::Toolchain;

use crate::paths::Workspace;
use crate::process;
use crate::ui::{self, Found, say, step};
use anyhow::{Result, bail};
use apt::Apt;
use std::process::ExitCode;

/// Arguments of `setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say what would be installed, and install nothing
    #[arg(long)]
    dry_run: bool,
    /// Accepted for scripts; setup never asks
    #[arg(long, short)]
    yes: bool,
}

/// A group of things that a subcommand needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The C compiler.
    Compiler,
    /// The eBPF toolchain and its linker.
    Ebpf,
    /// The real programs that tests and the demo run.
    Programs,
    /// Prometheus, which the tests of metrics, dashboards and rules run.
    Prometheus,
    /// What the tests against the Kubernetes API need beside those.
    Kube,
    /// What the running kernel and our privileges allow.
    Kernel,
}

/// A compiler for the kernel half and a linker that understands its output.
#[derive(Clone, Debug)]
pub(crate) struct Ebpf {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: Linker,
}

/// Something that is not there, and how a person gets it.
#[derive(Clone, Debug)]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// `cargo xtask setup`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    process::watch_signals()?;
    let all = [Need::Compiler, Need::Ebpf, Need::Programs, Need::Prometheus, Need::Kube, Need::Kernel];
    let missing = ensure(workspace, &all, Mode { dry_run: args.dry_run, quiet: false })?;
    if find_go().is_some() && !args.dry_run {
        crate::apiserver::start(workspace)?.finish(workspace)?;
    } else {
        step(
            Found::Install,
            "API server",
            "go build in tests/kube/apiserver, if it has changed (minutes the first time)",
        );
    }
    let what = if args.dry_run { "dry run: nothing was changed" } else { "everything is there" };
    if missing.is_empty() {
        say!("{}", ui::green(what));
        return Ok(ExitCode::SUCCESS);
    }
    explain(&missing);
    Ok(ExitCode::FAILURE)
}

/// Makes sure that `needs` are met, or fails with what to do. For the other subcommands: silent if all is well.
pub(crate) fn require(workspace: &Workspace, needs: &[Need]) -> Result<()> {
    let missing = ensure(workspace, needs, Mode { dry_run: false, quiet: true })?;
    if missing.is_empty() {
        return Ok(());
    }
    explain(&missing);
    bail!("setup is not complete")
}

/// How [`ensure`] goes about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// Install nothing.
    pub(crate) dry_run: bool,
    /// Say nothing about what is there already.
    pub(crate) quiet: bool,
}

impl Mode {
    fn found(self, name: &str, detail: &str) {
        if !self.quiet {
            step(Found::Ok, name, detail);
        }
    }

    /// What is missing is explained at the end, so a line for it is for those who asked for all lines.
    fn missing(self, name: &str, detail: &str) {
        if !self.quiet {
            step(Found::Missing, name, detail);
        }
    }
}

/// Prints what is missing, each with its remedy, once.
pub(crate) fn explain(missing: &[Missing]) {
    say!("\n{}", ui::red("Still missing:"));
    for Missing { what, remedy } in missing {
        say!("  {what}\n      {remedy}");
    }
}

/// Finds or installs; what stays missing is returned.
pub(crate) fn ensure(workspace: &Workspace, needs: &[Need], mode: Mode) -> Result<Vec<Missing>> {
    let apt = Apt::new(workspace, mode);
    let mut missing = Vec::new();
    if needs.contains(&Need::Compiler) {
        missing.extend(programs::compiler(&apt, mode)?);
    }
    if needs.contains(&Need::Ebpf) {
        missing.extend(ensure_ebpf(workspace, &apt, mode)?);
    }
    if needs.contains(&Need::Programs) {
        missing.extend(programs::ensure(&apt, mode)?);
    }
    if needs.contains(&Need::Prometheus) {
        missing.extend(programs::prometheus(&apt, mode)?);
    }
    if needs.contains(&Need::Kube) {
        missing.extend(kube::ensure(workspace, &apt, mode)?);
    }
    if needs.contains(&Need::Kernel) {
        missing.extend(kernel::ensure(mode));
    }
    Ok(missing)
}

/// The first toolchain and linker that suit each other, of those that are installed.
pub(crate) fn find_ebpf(workspace: &Workspace) -> Result<Option<Ebpf>> {
    let floor = workspace.rust_floor()?;
    let linkers = linker::installed(workspace);
    for toolchain in toolchain::installed(floor).into_iter().filter(|toolchain| toolchain.has_source) {
        if let Some(linker) = linkers.iter().find(|linker| linker.suits(&toolchain)) {
            return Ok(Some(Ebpf { toolchain, linker: linker.clone() }));
        }
    }
    Ok(None)
}

fn ensure_ebpf(workspace: &Workspace, apt: &Apt, mode: Mode) -> Result<Option<Missing>> {
    if let Some(found) = find_ebpf(workspace)? {
        mode.found("eBPF toolchain", &found.toolchain.to_string());
        mode.found("bpf-linker", &found.linker.to_string());
        return Ok(None);
    }
    let Some(llvm) = ensure_toolchain(workspace, apt, mode)? else {
        let (major, minor) = workspace.rust_floor()?;
        return Ok(Some(Missing {
            what: format!(
                "a Rust toolchain of {major}.{minor} or newer with its library's source, and an LLVM to link with"
            ),
            remedy: format!(
                "`cargo xtask setup` as root, where there is apt; else rustup toolchain install nightly --profile minimal --component rust-src, or your distribution's \
                 rustc, cargo and Rust source; then {}",
                linker::by_hand(workspace)
            ),
        }));
    };
    linker::ensure(workspace, apt, llvm, mode)
}

/// Sees to a toolchain with the library's source for which a linker can be had: one that is there, else rustup's
/// component, else the distribution's packages. Returns the major version of its LLVM, as far as it is known.
fn ensure_toolchain(workspace: &Workspace, apt: &Apt, mode: Mode) -> Result<Option<Option<u32>>> {
    let floor = workspace.rust_floor()?;
    let usable = |toolchain: &Toolchain| linker::obtainable(workspace, apt, Some(toolchain.llvm));
    let complete = || toolchain::installed(floor).into_iter().find(|found| found.has_source && usable(found));
    if let Some(toolchain) = complete() {
        mode.found("eBPF toolchain", &toolchain.to_string());
        return Ok(Some(Some(toolchain.llvm)));
    }
    let mut by_rustup = None;
    let bare =
        toolchain::installed(floor).into_iter().find(|found| found.rustup_name().is_some() && usable(found));
    if let Some(toolchain) = &bare {
        let name = toolchain.rustup_name().unwrap_or_default();
        step(Found::Install, "rust-src", &format!("rustup component add rust-src --toolchain {name}"));
        if mode.dry_run {
            by_rustup = Some(Some(toolchain.llvm));
        } else if toolchain::add_source(workspace, name)
            && let Some(toolchain) = complete()
        {
            return Ok(Some(Some(toolchain.llvm)));
        }
        let then = if mode.dry_run { "should that fail" } else { "rustup could not; instead" };
        say!("         {then}: the distribution's packages");
    }
    let Some(set) = apt.toolchain(floor)?.filter(|set| linker::obtainable(workspace, apt, set.llvm)) else {
        mode.missing("eBPF toolchain", apt.why_not());
        return Ok(by_rustup);
    };
    apt.install("eBPF toolchain", &set.packages)?;
    if mode.dry_run {
        return Ok(by_rustup.or(Some(set.llvm)));
    }
    Ok(complete().map(|toolchain| Some(toolchain.llvm)))
}
