//! Flags of `weft-bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::works::{PATHS, POLICY_WORKS, Path, WORKS, Work};

/// Measures the mesh: against no mesh, with the same programs, links and run; and its control plane.
#[derive(Debug, Parser)]
#[command(
    name = "weft-bench",
    version,
    after_help = "Exit codes: 0 every row was measured, 1 one was not, 2 usage, 3 one misses its bar."
)]
pub struct Cli {
    /// Which suite.
    #[command(subcommand)]
    pub suite: Suite,
}

/// What is measured together.
#[derive(Debug, Subcommand)]
pub enum Suite {
    /// Throughput, requests, connections and HTTP through captured pods, and the agents' CPU and memory
    Datapath(Options),
    /// One controller and simulated agents: memory, CPU, bytes, and how long a change takes
    Control(ControlOptions),
    /// Connections of one node in an empty world and in a full one, and what the full one costs the node
    Policy(PolicyOptions),
    /// What metrics, access lines and scrapes cost the agents, switched on and off in turn
    Observe(ObserveOptions),
    /// Simulated agents of the nodes of a full world; `policy` starts them
    #[command(hide = true)]
    PolicyFleet(FleetOptions),
    /// One agent in a process of its own; `control` starts it
    #[command(hide = true)]
    ControlAgent(AgentOptions),
}

/// How the control plane is measured.
#[derive(Clone, Debug, Args)]
pub struct ControlOptions {
    /// Fifty changes of each size instead of three hundred
    #[arg(long)]
    pub short: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Pods of the mesh, one run for each
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000, 10_000], value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub workloads: Vec<u32>,
}

/// Where an agent finds its controller.
#[derive(Clone, Debug, Args)]
pub struct AgentOptions {
    /// The controller
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// Its root certificate
    #[arg(long, value_name = "FILE")]
    pub roots: PathBuf,
    /// The node's token
    #[arg(long, value_name = "FILE")]
    pub token: PathBuf,
    /// The node
    #[arg(long, value_name = "NAME")]
    pub node: String,
}

/// How policies are measured.
#[derive(Clone, Debug, Args)]
pub struct PolicyOptions {
    /// Put everything of the first node on core 0 and everything of the second on core 1
    #[arg(long)]
    pub pin: bool,
    /// Three rounds of one-second windows (otherwise nine rounds of four seconds)
    #[arg(long)]
    pub short: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds: an empty world, a full one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of a window
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// Only these works
    #[arg(long, visible_alias = "only", value_name = "WORK,…", value_delimiter = ',', default_values_t = POLICY_WORKS)]
    pub works: Vec<Work>,
    /// Pods of other nodes in the full world
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub workloads: u32,
    /// Policies in the full world
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(20..=10_000))]
    pub policies: u32,
}

/// Where simulated agents find their controller, and who they are.
#[derive(Clone, Debug, Args)]
pub struct FleetOptions {
    /// The controller
    #[arg(long, value_name = "HOST:PORT")]
    pub controller: String,
    /// Its root certificate
    #[arg(long, value_name = "FILE")]
    pub roots: PathBuf,
    /// Directory of a token for each node, by the node's name
    #[arg(long, value_name = "DIR")]
    pub tokens: PathBuf,
}

/// How observability is measured.
#[derive(Clone, Debug, Args)]
pub struct ObserveOptions {
    /// Put everything of the first node on core 0 and everything of the second on core 1
    #[arg(long)]
    pub pin: bool,
    /// 40 rounds (otherwise 200)
    #[arg(long)]
    pub short: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds: off, with metrics, with lines, and back
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of a slice, of which a round has six
    #[arg(long, value_name = "N", default_value_t = 250, value_parser = clap::value_parser!(u32).range(50..=60_000))]
    pub millis: u32,
}

impl ObserveOptions {
    /// Rounds that count.
    pub fn round_count(&self) -> u32 {
        self.rounds.unwrap_or(if self.short { 40 } else { 200 })
    }

    /// Length of a slice.
    pub fn slice(&self) -> Duration {
        Duration::from_millis(self.millis.into())
    }
}

impl PolicyOptions {
    /// Rounds that count.
    pub fn round_count(&self) -> u32 {
        self.rounds.unwrap_or(if self.short { 3 } else { 9 })
    }

    /// Length of a window.
    pub fn window_seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.short { 1 } else { 4 })
    }
}

impl ControlOptions {
    /// Changes of each size.
    pub fn change_count(&self) -> u32 {
        if self.short { 50 } else { 300 }
    }
}

/// How it is measured.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Put everything of the first node on core 0 and everything of the second on core 1
    #[arg(long)]
    pub pin: bool,
    /// Five rounds of one-second windows, all works in seven minutes (otherwise nine rounds of four seconds)
    #[arg(long)]
    pub short: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds of each work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of a window
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: Option<u32>,
    /// Only these works
    #[arg(long, visible_alias = "only", value_name = "WORK,…", value_delimiter = ',', default_values_t = WORKS)]
    pub works: Vec<Work>,
    /// Only these paths
    #[arg(long, value_name = "PATH,…", value_delimiter = ',', default_values_t = PATHS)]
    pub paths: Vec<Path>,
    /// Start no mesh and compare two pairs of pods that are both outside: how far from 1 the ratios are is the noise of
    /// this machine
    #[arg(long)]
    pub calibrate: bool,
    /// In each round across nodes, also measure a pair of HAProxy that does the same under mutual TLS
    #[arg(long, conflicts_with = "calibrate")]
    pub yardstick: bool,
}

impl Options {
    /// Rounds that count.
    pub fn round_count(&self) -> u32 {
        self.rounds.unwrap_or(if self.short { 5 } else { 9 })
    }

    /// Length of a window.
    pub fn window_seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.short { 1 } else { 4 })
    }
}

#[cfg(test)]
mod tests;
