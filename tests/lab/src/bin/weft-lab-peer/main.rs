//! `weft-lab-peer`: small programs that run in pods and say in JSON what they saw of their connections.
//!
//! Blocking sockets and threads, as unmodified applications have them; no knowledge of any mesh.

mod addresses;
mod client;
mod crowd;
mod hammer;
mod hold;
mod rush;
mod server;
mod tally;
mod transfer;
mod words;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Small peers for the lab.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    peer: Peer,
}

/// A server's address: `PORT` (both families) or `ADDRESS:PORT`.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.contains(':') { text.to_owned() } else { format!("[::]:{text}") };
    full.parse().map_err(|error| format!("{error}: PORT or ADDRESS:PORT is wanted"))
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// Do nothing until killed: what keeps a pod alive.
    Pause,
    /// Send back what comes, until the client is done.
    Echo {
        #[arg(long, value_parser = listen_address)]
        listen: SocketAddr,
    },
    /// Send a line first, then echo.
    Banner {
        #[arg(long, value_parser = listen_address)]
        listen: SocketAddr,
        /// The line, without its end.
        #[arg(long, default_value = "220 weft-lab-peer at your service")]
        text: String,
    },
    /// Tell every client which addresses the connection has here (and print the same).
    #[expect(clippy::enum_variant_names, reason = "it prints its peer; the name is the command")]
    PrintPeer {
        #[arg(long, value_parser = listen_address)]
        listen: SocketAddr,
    },
    /// Take everything until the end of the stream, then answer `BYTES SHA256`. With --to: fetch and print that.
    Sink {
        #[arg(long, value_parser = listen_address, conflicts_with = "to")]
        listen: Option<SocketAddr>,
        #[arg(long, required_unless_present = "listen")]
        to: Option<SocketAddr>,
    },
    /// Send the lab's pattern. With --to: to a sink, whose answer is compared. With --listen: to every client.
    Source {
        #[arg(long, value_parser = listen_address, conflicts_with = "to")]
        listen: Option<SocketAddr>,
        #[arg(long, required_unless_present = "listen")]
        to: Option<SocketAddr>,
        #[arg(long)]
        bytes: u64,
    },
    /// Server of a half-closed conversation: by default the client ends its direction first.
    HalfCloseServer {
        #[arg(long, value_parser = listen_address)]
        listen: SocketAddr,
        /// The server speaks and ends its direction first.
        #[arg(long)]
        server_first: bool,
        /// Bytes that this side sends.
        #[arg(long, default_value_t = 100_000)]
        bytes: u64,
    },
    /// Client of the same.
    HalfCloseClient {
        #[arg(long)]
        to: SocketAddr,
        /// The server speaks and ends its direction first.
        #[arg(long)]
        server_first: bool,
        /// Bytes that this side sends.
        #[arg(long, default_value_t = 100_000)]
        bytes: u64,
    },
    /// Connect once and say what came of it.
    ConnectOnce {
        to: SocketAddr,
        /// Send this after connecting.
        #[arg(long)]
        send: Option<String>,
        /// End the own direction after that.
        #[arg(long)]
        shutdown: bool,
        /// How long to connect, and how long to read, each.
        #[arg(long, default_value_t = 3000)]
        timeout_ms: u64,
        /// Stop reading after so many bytes.
        #[arg(long, default_value_t = 65_536)]
        read: usize,
        /// JSON is all there is; accepted for clearness.
        #[arg(long)]
        json: bool,
    },
    /// Tell every client which addresses the connection has here, word for word. With --to: ask, and print both ends'.
    Addresses {
        #[arg(long, value_parser = listen_address, conflicts_with = "to")]
        listen: Option<SocketAddr>,
        #[arg(long, required_unless_present = "listen")]
        to: Option<SocketAddr>,
    },
    /// Hold many connections to an echo server open at once, each with content of its own.
    Crowd {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 500)]
        connections: usize,
        /// Bytes of each, there and back.
        #[arg(long, default_value_t = 65_536)]
        bytes: usize,
        /// What counts as too long for each step.
        #[arg(long, default_value_t = 20_000)]
        timeout_ms: u64,
    },
    /// Make new connections to an echo server at a steady rate, one request each.
    Hammer {
        #[arg(long)]
        to: SocketAddr,
        /// Connections per second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// How long; SIGTERM ends it earlier, with the same report.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// What counts as too long for each step.
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
    /// Send back what comes, on one thread for any number of connections.
    EchoMany {
        #[arg(long, value_parser = listen_address)]
        listen: SocketAddr,
    },
    /// Open connections to echo servers, say how many, hold them until SIGTERM, and say how many still answer.
    Hold {
        /// Given several times: in turn.
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
        #[arg(long)]
        connections: usize,
        /// Say nothing on them.
        #[arg(long)]
        silent: bool,
        #[arg(long, default_value_t = 20_000)]
        timeout_ms: u64,
    },
    /// Make new connections to an echo server as fast as they go, one byte each.
    Rush {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 16)]
        threads: usize,
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        #[arg(long, default_value_t = 20_000)]
        timeout_ms: u64,
    },
    /// Connect from many threads at the same moment.
    Burst {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 200)]
        threads: usize,
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Say nothing.
        #[arg(long)]
        silent: bool,
        #[arg(long, default_value_t = 20_000)]
        timeout_ms: u64,
    },
    /// Connect before anything else, again every 20 ms for so many seconds if refused, and read a line.
    FirstInstruction {
        to: SocketAddr,
        #[arg(default_value_t = client::PERSISTENCE)]
        seconds: u64,
    },
}

fn main() -> anyhow::Result<()> {
    // Before anything else, as its name says.
    let mut words = std::env::args().skip(1);
    if let (Some("first-instruction"), Some(to)) = (words.next().as_deref(), words.next()) {
        let seconds = words.next().map_or(Ok(client::PERSISTENCE), |seconds| seconds.parse())?;
        return client::first_instruction(to.parse()?, Duration::from_secs(seconds));
    }
    match Arguments::parse().peer {
        Peer::Pause => loop {
            std::thread::park();
        },
        Peer::Echo { listen } => server::echo(listen),
        Peer::Banner { listen, text } => server::banner(listen, text),
        Peer::PrintPeer { listen } => server::print_peer(listen),
        Peer::Sink { listen: Some(listen), .. } => transfer::sink_server(listen),
        Peer::Sink { to: Some(to), .. } => transfer::sink_client(to),
        Peer::Source { listen: Some(listen), bytes, .. } => transfer::source_server(listen, bytes),
        Peer::Source { to: Some(to), bytes, .. } => transfer::source_client(to, bytes),
        Peer::Sink { .. } | Peer::Source { .. } => anyhow::bail!("--to or --listen is wanted"),
        Peer::HalfCloseServer { listen, server_first, bytes } => {
            transfer::half_close_server(listen, server_first, bytes)
        }
        Peer::HalfCloseClient { to, server_first, bytes } => {
            transfer::half_close_client(to, server_first, bytes)
        }
        Peer::ConnectOnce { to, send, shutdown, timeout_ms, read, json: _ } => {
            client::connect_once(to, send.as_deref(), shutdown, Duration::from_millis(timeout_ms), read)
        }
        Peer::Addresses { listen: Some(listen), .. } => addresses::serve(listen),
        Peer::Addresses { to: Some(to), .. } => addresses::ask(to),
        Peer::Addresses { .. } => anyhow::bail!("--to or --listen is wanted"),
        Peer::Crowd { to, connections, bytes, timeout_ms } => {
            crowd::run(to, connections, bytes, Duration::from_millis(timeout_ms))
        }
        Peer::Hammer { to, rate, seconds, timeout_ms } => {
            hammer::run(to, rate, Duration::from_secs(seconds), Duration::from_millis(timeout_ms))
        }
        Peer::EchoMany { listen } => hold::echo(listen),
        Peer::Hold { to, connections, silent, timeout_ms } => {
            hold::hold(&to, connections, silent, Duration::from_millis(timeout_ms))
        }
        Peer::Rush { to, threads, seconds, timeout_ms } => {
            rush::rush(to, threads, Duration::from_secs(seconds), Duration::from_millis(timeout_ms))
        }
        Peer::Burst { to, threads, rounds, silent, timeout_ms } => {
            rush::burst(to, threads, rounds, silent, Duration::from_millis(timeout_ms))
        }
        Peer::FirstInstruction { to, seconds } => client::first_instruction(to, Duration::from_secs(seconds)),
    }
}
