//! `weft-load`: clients and server of the bench's own works. Prints one line of JSON.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bench::load;
use clap::{Parser, Subcommand};

/// Load on TCP connections, and the server for it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer on two ports: one echoes, the other answers a byte and closes
    Serve {
        /// Port that echoes
        #[arg(long)]
        echo: u16,
        /// Port that answers a byte and closes
        #[arg(long)]
        close: u16,
    },
    /// 64 bytes there and 64 bytes back, one request outstanding on each connection
    Request {
        /// The server's echo port
        #[arg(long)]
        to: SocketAddr,
        /// Connections
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        connections: u16,
        /// Length of the window
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
    },
    /// Connect, a byte there and a byte back, close
    Connect {
        /// The server's close port
        #[arg(long)]
        to: SocketAddr,
        /// Threads that do it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        threads: u16,
        /// Length of the window
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
    },
    /// Hold connections that were used once; prints `ready` when all are there
    Idle {
        /// The server's echo port
        #[arg(long)]
        to: SocketAddr,
        /// Connections
        #[arg(long)]
        connections: u16,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    use anyhow::Context as _;
    load::raise_open_files().context("raise the limit of open files")?;
    let window = |seconds: f64| Duration::try_from_secs_f64(seconds).context("--seconds");
    let report = match command {
        Command::Serve { echo, close } => return load::serve(echo, close).context("serve"),
        Command::Request { to, connections, seconds } => {
            load::request(to, connections.into(), window(seconds)?).with_context(|| format!("ask {to}"))?
        }
        Command::Connect { to, threads, seconds } => {
            load::connect(to, threads.into(), window(seconds)?).with_context(|| format!("connect to {to}"))?
        }
        Command::Idle { to, connections } => {
            let ready = || {
                println!("ready");
                let _ = std::io::stdout().flush();
            };
            return load::idle(to, connections.into(), ready)
                .with_context(|| format!("hold connections to {to}"));
        }
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
