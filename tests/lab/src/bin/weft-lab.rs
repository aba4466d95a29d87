//! `weft-lab`: what the lab needs outside a test, and the demo.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::{Place, demo, teardown};

/// Labs made of network namespaces and cgroups.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove what dead labs left behind. Labs whose owner lives are not touched.
    Sweep {
        /// Also labs that were left up on purpose.
        #[arg(long)]
        all: bool,
    },
    /// Show two nodes of unmodified programs talking through Weft.
    #[command(args_conflicts_with_subcommands = true)]
    Demo {
        #[command(subcommand)]
        action: Option<DemoAction>,
        /// Leave it up, and say how to look around.
        #[arg(long)]
        keep: bool,
        /// Write what was seen as JSON.
        #[arg(long, value_name = "FILE", conflicts_with = "observe")]
        report: Option<PathBuf>,
        /// Traffic that goes on until Ctrl-C, a Prometheus that sees it, and what to open.
        #[arg(long)]
        observe: bool,
        /// With --observe: end by itself after so many seconds of traffic.
        #[arg(long, value_name = "N", requires = "observe", conflicts_with = "keep")]
        seconds: Option<u64>,
    },
    /// A port of the machine's loopback that leads into a network namespace.
    #[command(hide = true)]
    Doorway {
        /// File of the namespace.
        netns: PathBuf,
        /// Where to, in it.
        to: SocketAddr,
    },
    /// Remove a lab when the process at the other end of standard input is gone.
    #[command(hide = true)]
    Guard {
        /// Id of the lab.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum DemoAction {
    /// Remove what `demo --keep` left up.
    Down,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Demo { action: Some(DemoAction::Down), .. } => Ok(demo::down()),
        Command::Demo { keep, report, observe, seconds, .. } => {
            let observe = observe.then_some(demo::Observe { seconds });
            Ok(demo::run(&demo::Options { keep, report, observe }))
        }
        Command::Doorway { netns, to } => match demo::doorway(&netns, to)? {},
        Command::Sweep { all } => {
            let removed = teardown::sweep(all)?;
            match removed.as_slice() {
                [] => println!("nothing to remove"),
                ids => println!("removed {}", ids.join(", ")),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Guard { id } => teardown::guard(&Place::of(&id)).map(|()| ExitCode::SUCCESS),
    }
}
