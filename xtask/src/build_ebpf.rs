//! `cargo xtask build-ebpf`: compiles `mesh-ebpf` for the kernel and puts the object where the agent's build finds it.
//!
//! ```text
//! mesh-ebpf, mesh-common ──rustc, bitcode──► bpf-linker ──BTF──► target/ebpf-build/… ──if changed──► target/ebpf/mesh.bpf.o
//! ```
//!
//! Always optimised: the verifier would not take it otherwise. In a target directory of its own, since another compiler
//! than the workspace's may do it.
//!
//! Invariants: the object is replaced by renaming, and only when its bytes changed, so that cargo rebuilds the agent
//! only then; what it was made from is stored beside it, and nothing runs if that is the same. `Cargo.lock` is never
//! written.

mod stamp;

use crate::paths::Workspace;
use crate::process;
use crate::setup::{self, Ebpf, Need};
use crate::ui::{self, say};
use anyhow::{Context as _, Result};
pub(crate) use stamp::Fingerprint;
use stamp::Stamp;
use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Arguments of `build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for the sake of habit; the object is always optimised
    #[arg(long)]
    release: bool,
    /// Build even if nothing changed
    #[arg(long)]
    force: bool,
}

/// `cargo xtask build-ebpf`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    process::watch_signals()?;
    build(workspace, args.force)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the object unless it is up to date.
pub(crate) fn build(workspace: &Workspace, force: bool) -> Result<()> {
    let ebpf = match setup::find_ebpf(workspace)? {
        Some(ebpf) => ebpf,
        None => {
            setup::require(workspace, &[Need::Ebpf])?;
            setup::find_ebpf(workspace)?
                .context("setup found a toolchain and a linker that do not suit each other")?
        }
    };
    let object = workspace.object();
    let stamp = Stamp::of(workspace, &ebpf)?;
    if !force && object.is_file() && stamp.is_at(&object) {
        say!("{}  {} is up to date", ui::green("ok     "), object.display());
        return Ok(());
    }
    ui::heading(&format!("building the kernel half with {}", ebpf.toolchain));
    let started = Instant::now();
    compile(workspace, &ebpf)?;
    let built = workspace.target.join("ebpf-build").join(TARGET).join("release/mesh-ebpf");
    let changed = publish(&built, &object)?;
    stamp.write_at(&object)?;
    say!(
        "{}  {} {} ({:.0} s)",
        ui::green("ok     "),
        object.display(),
        if changed { "is new" } else { "came out the same" },
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn compile(workspace: &Workspace, ebpf: &Ebpf) -> Result<()> {
    // Debug information is what BTF is made from. It stays in the object too, where loaders pass over it.
    let flags =
        [format!("--cfg=bpf_target_arch=\"{ARCH}\""), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
    let mut cargo = ebpf.toolchain.cargo();
    cargo
        .current_dir(&workspace.root)
        .args(["build", "--package", "mesh-ebpf", "--bin", "mesh-ebpf", "--release", "--locked"])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(workspace.target.join("ebpf-build"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &ebpf.linker.path)
        .env("CARGO_TARGET_BPFEB_UNKNOWN_NONE_LINKER", &ebpf.linker.path)
        // The workspace's release profile is for programs.
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "false");
    process::run(&mut cargo, "the build of the kernel half")
}

/// Copies `built` to `object` if that is different, in one step for whoever reads it. Says whether it was.
fn publish(built: &Path, object: &Path) -> Result<bool> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let directory = object.parent().context("the object has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let draft = object.with_extension("o.new");
    fs::write(&draft, bytes).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, object).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests;
