//! `weft-bench`: what the mesh costs. `cargo xtask bench` builds everything and becomes this program.

use std::process::ExitCode;

use bench::cli::{Cli, Suite};
use bench::report::Outcome;
use bench::{control, datapath, observe, policy};
use clap::Parser;

fn main() -> ExitCode {
    let result = match Cli::parse().suite {
        Suite::Datapath(options) => datapath::run(&options),
        Suite::Observe(options) => observe::run(&options),
        Suite::Policy(options) => policy::run(&options),
        Suite::PolicyFleet(options) => policy::fleet::run(&options),
        Suite::Control(options) => control::run(&options),
        Suite::ControlAgent(options) => control::agent::run(&options),
    };
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::BarMissed) => ExitCode::from(3),
        Ok(Outcome::Incomplete) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
