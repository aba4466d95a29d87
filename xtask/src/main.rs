//! `cargo xtask`: the one front door to everything that is done *to* the workspace, as against by the product.
//!
//! One module per subcommand. Each finds out what is already there and does only the rest, so all of them are cheap
//! to repeat:
//!
//! ```text
//! setup ──► build-ebpf ──► cargo build ──► demo | bench   (then becomes weft-lab or weft-bench)
//!                                     └──► test           (runs the test programs itself, and counts)
//! gen       mesh-crd, dashboards, rules ──► deploy/charts; mesh-model ──► docs/errors.md
//! image     cargo build ──► OCI archives
//! tidy      reads files only
//! ```
//!
//! Exit codes: 0 it worked, 1 something failed, 2 wrong usage.
//!
//! Not here: anything that touches namespaces, cgroups or maps. That is the lab's (`tests/lab`).

mod apiserver;
mod build_ebpf;
mod gen_charts;
mod image;
mod lab;
mod paths;
mod process;
mod setup;
mod test;
mod tidy;
mod ui;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Sets up, builds, shows, tests and measures Weft.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what building and testing need
    Setup(setup::Args),
    /// Build the kernel half into target/ebpf/mesh.bpf.o
    BuildEbpf(build_ebpf::Args),
    /// Build everything and show two nodes talking under mutual TLS
    Demo(lab::DemoArgs),
    /// Run groups of tests, all of them without a name
    Test(test::Args),
    /// Measure the mesh against the same programs without it
    Bench(lab::BenchArgs),
    /// Write the generated parts of the charts: the definitions of Weft's own objects, copies of dashboards and rules, the index of errors
    Gen(gen_charts::Args),
    /// Write container images as OCI archives, with no daemon and no builder
    Image(image::Args),
    /// Check the house rules that no compiler checks
    Tidy,
}

fn main() -> ExitCode {
    let outcome = paths::Workspace::find().and_then(|workspace| match Args::parse().command {
        Command::Setup(args) => setup::run(&workspace, &args),
        Command::BuildEbpf(args) => build_ebpf::run(&workspace, &args),
        Command::Demo(args) => lab::demo(&workspace, args),
        Command::Test(args) => test::run(&workspace, &args),
        Command::Bench(args) => lab::bench(&workspace, args),
        Command::Gen(args) => gen_charts::run(&workspace, &args),
        Command::Image(args) => image::run(&workspace, &args),
        Command::Tidy => tidy::run(&workspace),
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {error:#}", ui::red("error:"));
            match process::interrupted() {
                Some(signal) => ExitCode::from(128 + u8::try_from(signal).unwrap_or(0)),
                None => ExitCode::FAILURE,
            }
        }
    }
}
