//! `weft-bench`: what the mesh costs. `cargo xtask bench` builds everything and becomes this program.

use std::process::ExitCode;

use bench::cli::{Cli, Suite};
use bench::{control, datapath};
use clap::Parser;

fn main() -> ExitCode {
    let result = match Cli::parse().suite {
        Suite::Datapath(options) => datapath::run(&options),
        Suite::Control(options) => control::run(&options),
        Suite::ControlAgent(options) => control::agent::run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
