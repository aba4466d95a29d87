//! `cargo xtask demo` and `cargo xtask bench`: build everything, then become the program that does it.
//!
//! The lab (`tests/lab`) makes nodes and pods and takes them away again; xtask only sees to it that all is built, and
//! then replaces itself, so that Ctrl-C and the exit code are the lab's own.

use crate::build_ebpf;
use crate::paths::Workspace;
use crate::process;
use crate::setup::{self, Need};
use crate::ui::{self, say};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Instant;

/// What the lab starts, and the lab itself.
pub(crate) const PRODUCT: [&str; 4] = ["mesh-agent", "mesh-controller", "mesh-cli", "lab"];

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    action: Option<DemoAction>,
    /// Leave it up, and say how to look around
    #[arg(long)]
    keep: bool,
    /// Write what was seen as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "observe")]
    report: Option<OsString>,
    /// Traffic that goes on until Ctrl-C, a Prometheus that sees it, and what to open
    #[arg(long)]
    observe: bool,
    /// With --observe: end by itself after so many seconds of traffic
    #[arg(long, value_name = "N", requires = "observe", conflicts_with = "keep")]
    seconds: Option<u64>,
}

impl DemoArgs {
    /// What the lab's own `demo` is told.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["demo".into()];
        words.extend(self.keep.then(|| "--keep".into()));
        words.extend(self.report.iter().flat_map(|file| ["--report".into(), file.clone()]));
        words.extend(self.observe.then(|| "--observe".into()));
        words.extend(self.seconds.iter().flat_map(|span| ["--seconds".into(), span.to_string().into()]));
        words
    }

    /// What it takes.
    fn needs(&self) -> Vec<Need> {
        [&NEEDS[..], if self.observe { &[Need::Prometheus] } else { &[] }].concat()
    }
}

/// What everything that runs the lab takes.
const NEEDS: [Need; 4] = [Need::Compiler, Need::Ebpf, Need::Programs, Need::Kernel];

#[derive(Debug, clap::Subcommand)]
enum DemoAction {
    /// Remove what `demo --keep` left up
    Down,
}

/// Arguments of `bench`: the bench's own, passed on as they are.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Suite and flags of weft-bench, such as `datapath --pin --short --json FILE`, `datapath --only rr-1 --rounds 3`,
    /// `policy --pin --short`, `observe --pin --short` or `control --short --json FILE` [default: datapath]; `SUITE --help`
    /// lists them all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// `cargo xtask demo`.
pub(crate) fn demo(workspace: &Workspace, args: DemoArgs) -> Result<ExitCode> {
    if matches!(args.action, Some(DemoAction::Down)) {
        if !workspace.program("weft-lab").is_file() {
            say!("nothing was ever built here, so nothing is up");
            return Ok(ExitCode::SUCCESS);
        }
        return become_program(workspace, "weft-lab", &["demo".into(), "down".into()]);
    }
    prepare(workspace, &PRODUCT, &args.needs())?;
    become_program(workspace, "weft-lab", &args.words())
}

/// `cargo xtask bench`.
pub(crate) fn bench(workspace: &Workspace, args: BenchArgs) -> Result<ExitCode> {
    prepare(workspace, &[&PRODUCT[..], &["bench"]].concat(), &NEEDS)?;
    let mut arguments = args.arguments;
    if arguments.first().is_none_or(|first| first.as_encoded_bytes().starts_with(b"-")) {
        arguments.insert(0, "datapath".into());
    }
    become_program(workspace, "weft-bench", &arguments)
}

fn prepare(workspace: &Workspace, packages: &[&str], needs: &[Need]) -> Result<()> {
    process::watch_signals()?;
    let started = Instant::now();
    setup::require(workspace, needs)?;
    build_ebpf::build(workspace, false)?;
    build_programs(workspace, packages)?;
    say!("{}  built in {:.0} s", ui::green("ok     "), started.elapsed().as_secs_f64());
    Ok(())
}

/// Builds the programs of some packages in the release profile.
pub(crate) fn build_programs(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    ui::heading(&format!("building {} (some minutes the first time)", packages.join(", ")));
    let mut cargo = process::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--release", "--locked", "--bins"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    process::run(&mut cargo, "the build")
}

fn become_program(workspace: &Workspace, name: &str, arguments: &[OsString]) -> Result<ExitCode> {
    let program = workspace.program(name);
    if !program.is_file() {
        bail!("{} is not there; no package of this workspace builds it", program.display());
    }
    Err(process::command(&program).args(arguments).exec())
        .with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(test)]
mod tests;
